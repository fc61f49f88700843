package main

import "syscall"

const sysSyncFileRange = syscall.SYS_SYNC_FILE_RANGE

// renameat2 is younger than Go's table of calls.
const sysRenameat2 = 316

func registers(regs *syscall.PtraceRegs) (call, first uint64) { return regs.Orig_rax, regs.Rdi }

func renames(call uint64) bool {
	switch call {
	case syscall.SYS_RENAME, syscall.SYS_RENAMEAT, sysRenameat2, syscall.SYS_UNLINK, syscall.SYS_UNLINKAT, syscall.SYS_MKDIR,
		syscall.SYS_MKDIRAT, syscall.SYS_RMDIR, syscall.SYS_LINK, syscall.SYS_LINKAT, syscall.SYS_TRUNCATE:
		return true
	}
	return false
}
