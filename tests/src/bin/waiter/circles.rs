//! Which roles stand in a circle of processes that nobody can leave, or in one that somebody can?

use std::os::fd::AsRawFd;

use crate::files::{create, flock_exclusive};
use crate::locks::wait_for;
use crate::pipes::fill;
use crate::report::{Report, woke};
use crate::{Call, sys};

/// A child writes to a pipe that is full and that only its parent could read, which waits for the child.
pub(crate) fn circle_pipe(call: &Call) {
    let (reader, writer) = sys::pipe();
    let child = sys::peer(&[reader.as_raw_fd()], || fill(writer.as_raw_fd()));
    drop(writer);
    Report::new(call.role, "wait4").with("child", child).fd(&reader).print();
    woke(wait_for(child))
}

/// The same, but another process has the pipe as well, and may read it.
pub(crate) fn circle_left(call: &Call) {
    let (reader, writer) = sys::pipe();
    let child = sys::peer(&[reader.as_raw_fd()], || fill(writer.as_raw_fd()));
    drop(writer);
    let other = sys::peer(&[], || ());
    Report::new(call.role, "wait4").with("child", child).with("other", other).fd(&reader).print();
    woke(wait_for(child))
}

/// Two processes, each of which waits for a word of the other.
pub(crate) fn circle_words(call: &Call) {
    let (to_child, from_parent) = (sys::pipe(), sys::pipe());
    let ((child_reads, parent_writes), (parent_reads, child_writes)) = (to_child, from_parent);
    let child = sys::peer(&[parent_writes.as_raw_fd(), parent_reads.as_raw_fd()], || {
        sys::read_byte(child_reads.as_raw_fd());
        sys::write_byte(child_writes.as_raw_fd());
    });
    drop((child_reads, child_writes));
    Report::new(call.role, "read").with("child", child).fd(&parent_reads).print();
    woke(sys::read_byte(parent_reads.as_raw_fd()))
}

/// Two processes, each of which has the lock on one file and wants that on the other's.
pub(crate) fn circle_locks(call: &Call) {
    let paths = ["circle-own", "circle-childs"].map(sys::own_path);
    let [own, childs] = paths.each_ref().map(|path| create(path));
    sys::must(flock_exclusive(own.as_raw_fd()), "flock");
    let (ready, tell) = sys::pipe();
    let child = sys::peer(&[own.as_raw_fd(), childs.as_raw_fd(), ready.as_raw_fd()], || {
        let [wanted, held] = paths.each_ref().map(|path| create(path));
        sys::must(flock_exclusive(held.as_raw_fd()), "flock");
        sys::write_byte(tell.as_raw_fd());
        flock_exclusive(wanted.as_raw_fd());
    });
    sys::must(sys::read_byte(ready.as_raw_fd()), "the child's word");
    Report::new(call.role, "flock").with("child", child).fd(&childs).print();
    woke(flock_exclusive(childs.as_raw_fd()))
}
