//! An event loop with a pool of connections to one service, all of which were answered before.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;

use serde_json::json;

use crate::report::print;
use crate::sockets::{Connection, tcp_report};
use crate::{Call, pipes, sys};

/// The two ends of a connection of the pool.
struct Pooled {
    client: TcpStream,
    server: TcpStream,
}

impl Pooled {
    fn ask(&mut self) {
        self.client.write_all(b"PING").expect("ask");
        self.server.read_exact(&mut [0; 4]).expect("the question");
    }

    fn answer(&mut self) {
        self.server.write_all(b"PONG").expect("answer");
        self.client.read_exact(&mut [0; 4]).expect("the answer");
    }
}

/// How many connections there are.
const NUMBER: usize = 12;

/// Commands: `exchange` has all asked and answered; `ask` asks on the first, long after its last answer; `answer` answers that;
/// `at-once` asks on the second and third right after an answer.
pub(crate) fn pool(call: &Call) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a loopback listener");
    let pair = || Connection::pair(&listener);
    let mut pool: Vec<Pooled> =
        (0..NUMBER).map(|_| pair()).map(|(client, server)| Pooled { client, server }).collect();
    let watched: Vec<_> = pool.iter().map(|pooled| pooled.client.as_raw_fd()).collect();
    let _epoll = pipes::epoll_of(&watched);
    let exchange = |pooled: &mut Pooled| {
        pooled.ask();
        pooled.answer();
    };
    pool.iter_mut().for_each(exchange);
    tcp_report(call.role, "request", &pool[0].client).with("at_once", &watched[1..3]).print();
    sys::on_commands(|command| {
        match command {
            "exchange" => pool.iter_mut().for_each(exchange),
            "ask" => pool[0].ask(),
            "answer" => pool[0].answer(),
            "at-once" => pool[1..3].iter_mut().for_each(|pooled| {
                exchange(pooled);
                pooled.ask();
            }),
            _ => return,
        }
        print(&json!({ "realtime_ns": sys::realtime_ns() }));
    })
}
