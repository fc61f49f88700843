//! gRPC's own health service. Only the server as a whole, the empty name, has a state.

use bytes::Bytes;
use conclave_proto::grpc::health::v1::{
    HealthCheckRequest, HealthCheckResponse, HealthListRequest, HealthListResponse,
    health_check_response::ServingStatus,
};

use super::{body::Outgoing, frame, frame::Messages, status::Status};
use crate::error::Code;

pub(super) fn check(message: Bytes) -> Result<Bytes, Status> {
    let request: HealthCheckRequest = frame::decode(message)?;
    if !request.service.is_empty() {
        return Err(Status::new(Code::NotFound, "unknown service"));
    }
    Ok(response(ServingStatus::Serving))
}

pub(super) fn list(message: Bytes) -> Result<Bytes, Status> {
    let _: HealthListRequest = frame::decode(message)?;
    let serving = HealthCheckResponse { status: ServingStatus::Serving as i32 };
    Ok(frame::encode(&HealthListResponse { statuses: [(String::new(), serving)].into() }))
}

/// Answers at once; the state does not change while the member runs, and the stream ends when it stops.
pub(super) async fn watch<B>(mut messages: Messages<B>, out: &Outgoing) -> Result<(), Status>
where
    B: http_body::Body<Data = Bytes> + Unpin,
{
    let request: HealthCheckRequest = frame::decode_streamed(messages.only().await?)?;
    let known = request.service.is_empty();
    out.send(response(if known { ServingStatus::Serving } else { ServingStatus::ServiceUnknown })).await;
    std::future::pending().await
}

fn response(status: ServingStatus) -> Bytes {
    frame::encode(&HealthCheckResponse { status: status as i32 })
}
