// killat -n N -under FOLDER [-count FILE] -- COMMAND: runs a command and kills it, without warning, when it is about to
// make its N-th call that changes a file under the folder. With -n 0 it only counts.
//
// The number of calls that it saw is written to the count file at the end. SIGTERM is passed on. Exits with the
// command's code, or with 137 if it killed it.
package main

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strings"
	"syscall"
)

const (
	traceClone    = syscall.PTRACE_O_TRACECLONE | syscall.PTRACE_O_TRACEFORK | syscall.PTRACE_O_TRACEVFORK
	traceExitKill = 0x100000
	sysgood       = syscall.PTRACE_O_TRACESYSGOOD
	wall          = 0x40000000
)

type tracer struct {
	at     int
	under  string
	seen   int
	inside map[int]bool // threads between the entry and the exit of a call
}

func main() {
	at := flag.Int("n", 0, "the call to die at; 0 only counts")
	under := flag.String("under", "/", "only calls that change files under this folder count")
	count := flag.String("count", "", "a file for the number of calls")
	flag.Parse()
	// All of ptrace must come from the thread that started the command.
	runtime.LockOSThread()
	t := &tracer{at: *at, under: *under, inside: map[int]bool{}}
	code, err := t.run(flag.Args())
	if *count != "" {
		_ = os.WriteFile(*count, fmt.Appendf(nil, "%d\n", t.seen), 0o644)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "killat:", err)
		os.Exit(2)
	}
	os.Exit(code)
}

func (t *tracer) run(args []string) (int, error) {
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Ptrace: true}
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	pid := cmd.Process.Pid
	var status syscall.WaitStatus
	if _, err := syscall.Wait4(pid, &status, wall, nil); err != nil {
		return 0, err
	}
	if err := syscall.PtraceSetOptions(pid, traceClone|traceExitKill|sysgood); err != nil {
		return 0, err
	}
	terminate := make(chan os.Signal, 1)
	signal.Notify(terminate, syscall.SIGTERM)
	go func() {
		<-terminate
		_ = syscall.Kill(pid, syscall.SIGTERM)
	}()
	if err := syscall.PtraceSyscall(pid, 0); err != nil {
		return 0, err
	}
	return t.loop(pid)
}

func (t *tracer) loop(leader int) (int, error) {
	for {
		var status syscall.WaitStatus
		tid, err := syscall.Wait4(-1, &status, wall, nil)
		if err == syscall.EINTR {
			continue
		}
		if err != nil {
			return 0, err
		}
		pass := 0
		switch {
		case status.Exited() || status.Signaled():
			delete(t.inside, tid)
			if tid != leader {
				continue
			}
			if status.Signaled() {
				return 128 + int(status.Signal()), nil
			}
			return status.ExitStatus(), nil
		case status.StopSignal() == syscall.SIGTRAP|0x80:
			t.inside[tid] = !t.inside[tid]
			if t.inside[tid] && t.changes(tid) {
				t.seen++
				if t.seen == t.at {
					_ = syscall.Kill(leader, syscall.SIGKILL)
					continue
				}
			}
		case status.StopSignal() == syscall.SIGTRAP || status.StopSignal() == syscall.SIGSTOP:
			// A new thread, or the event that announces it.
		default:
			pass = int(status.StopSignal())
		}
		_ = syscall.PtraceSyscall(tid, pass)
	}
}

// changes tells whether the thread is about to make a call that changes a file under the folder.
func (t *tracer) changes(tid int) bool {
	var regs syscall.PtraceRegs
	if syscall.PtraceGetRegs(tid, &regs) != nil {
		return false
	}
	call, first := registers(&regs)
	switch call {
	case syscall.SYS_WRITE, syscall.SYS_WRITEV, syscall.SYS_PWRITE64, syscall.SYS_PWRITEV, syscall.SYS_FDATASYNC, syscall.SYS_FSYNC,
		syscall.SYS_FTRUNCATE, syscall.SYS_FALLOCATE, sysSyncFileRange:
		target, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", tid, first))
		return err == nil && strings.HasPrefix(target, t.under)
	}
	// Calls that name a path: nothing but the data folder is renamed, made or unlinked by a server that is under way.
	return renames(call)
}
