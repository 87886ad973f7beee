//! What runs in the kernel: the list of modules, the licence and the panic handler the compiler wants.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod answers;
mod atomic;
mod call;
mod calls;
mod count;
mod ended;
mod file;
mod histogram;
mod holders;
mod iter;
mod lookup;
mod offsets;
mod registers;
mod rings;
mod settings;
mod slot;
mod snapshot;
mod sock;
mod sockets;
mod stacks;
mod task;
mod waits;

/// The kernel lets only programs of a GPL-compatible licence call the helpers used here.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    // Nothing here panics; the verifier would refuse a program that could get stuck in this loop.
    loop {}
}
