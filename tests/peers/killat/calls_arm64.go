package main

import "syscall"

const sysSyncFileRange = syscall.SYS_SYNC_FILE_RANGE

func registers(regs *syscall.PtraceRegs) (call, first uint64) { return regs.Regs[8], regs.Regs[0] }

func renames(call uint64) bool {
	switch call {
	case syscall.SYS_RENAMEAT, 276, syscall.SYS_UNLINKAT, syscall.SYS_MKDIRAT, syscall.SYS_LINKAT, syscall.SYS_TRUNCATE:
		return true
	}
	return false
}
