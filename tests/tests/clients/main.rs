//! Does tracer find the hangs of real programs, Debian's own clients and servers? One module a behaviour.
//!
//! Needs root and the packages that `cargo xtask test --all` installs; a missing one is a failure. All traffic stays
//! on loopback, every server is started here, with its data in this process's own directory.

mod blocked;
mod crowd;
mod flagged;
mod python;
mod quiet;
mod reply;
mod story_child_output;
mod story_circles;
mod story_cron_lock;
mod story_endless_loop;
mod story_gearman_job;
mod story_mutexes;
mod story_nat;
mod story_php_tls;
mod story_proxy;
mod story_python_locks;
mod story_row_lock;
mod story_scripts;
mod story_table_lock;
mod story_tls_tickets;
mod workers;
