use super::health::Selection;

#[test]
fn paths_of_probes() {
    for known in ["livez", "readyz", "livez/serializable_read", "readyz/non_learner", "readyz/data_corruption"] {
        assert!(Selection::parse(known).is_some(), "{known}");
    }
    for unknown in ["", "live", "livez/", "livez/non_learner", "readyz/foo", "readyz/non_learner/x"] {
        assert!(Selection::parse(unknown).is_none(), "{unknown}");
    }
}
