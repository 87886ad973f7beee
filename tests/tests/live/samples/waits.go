// Sleeps in a call of the kernel in its first thread, three functions deep, and in another goroutine in a closure; says so when it is about to.
package main

import (
	"fmt"
	"syscall"
	"unsafe"
)

var ends [2]int

//go:noinline
func block() int {
	var bytes [8]byte
	got, _, _ := syscall.Syscall(syscall.SYS_READ, uintptr(ends[0]), uintptr(unsafe.Pointer(&bytes[0])), 8) // block
	return int(got) + int(bytes[1])
}

//go:noinline
func deep(left int) int {
	if left == 0 {
		return block() + 1 // last
	}
	return deep(left-1) + left // deep
}

type pool struct{ size int }

//go:noinline
func (p *pool) get() int {
	return deep(p.size) + p.size // get
}

func main() {
	if err := syscall.Pipe(ends[:]); err != nil {
		panic(err)
	}
	done := make(chan int)
	go func() {
		done <- (&pool{1}).get() // closure
	}()
	fmt.Println("waits")
	fmt.Println((&pool{2}).get(), <-done) // main
}
