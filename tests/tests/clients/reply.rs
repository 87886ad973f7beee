//! Does `ps` say of every real client that asked and got no answer that it waits for a reply, on what, and since when?

use crate::crowd::check;

/// It has sent its banner and waits for the server's.
#[test]
fn ssh() {
    check("ssh", "reply");
}

/// Both banners passed; the last bytes are its offer of keys.
#[test]
fn ssh_in_its_key_exchange() {
    check("ssh-key-exchange", "reply");
}

#[test]
fn redis_cli() {
    check("redis-cli", "reply");
}

/// The server speaks first: nothing was ever said by either.
#[test]
fn mysql() {
    check("mysql", "reply");
}

#[test]
fn psql() {
    check("psql", "reply");
}

/// It wakes every second and waits on.
#[test]
fn curl() {
    check("curl", "reply");
}

#[test]
fn wget() {
    check("wget", "reply");
}

#[test]
fn php_streams() {
    check("php-http", "reply");
}

/// It wakes every two seconds and waits on.
#[test]
fn php_streams_that_ask_again() {
    check("php-again", "reply");
}

#[test]
fn php_streams_over_tls() {
    check("php-tls", "reply");
}

/// The tickets of TLS 1.3 follow the client's first request, and are the last bytes on the wire: nothing was answered.
#[test]
fn php_streams_over_tls_whose_tickets_follow_the_request() {
    check("late-tickets-php-tls", "reply");
}

#[test]
fn php_streams_over_tls_after_the_tickets() {
    check("php-tls-later", "reply");
}

#[test]
fn ruby_net_http() {
    check("ruby", "reply");
}

#[test]
fn python_urllib() {
    check("urllib", "reply");
}

#[test]
fn python_urllib_with_a_timeout() {
    check("urllib-timeout", "reply");
}
