//! Does `ps` say of every real client that got half an answer that the rest is missing, on what, and since when?

use crate::crowd::check;

#[test]
fn ssh() {
    check("half-ssh", "quiet");
}

#[test]
fn redis_cli() {
    check("half-redis-cli", "quiet");
}

#[test]
fn mysql() {
    check("half-mysql", "quiet");
}

#[test]
fn psql() {
    check("half-psql", "quiet");
}

#[test]
fn curl() {
    check("half-curl", "quiet");
}

#[test]
fn wget() {
    check("half-wget", "quiet");
}

#[test]
fn php_streams() {
    check("half-php-http", "quiet");
}

#[test]
fn php_streams_that_ask_again() {
    check("half-php-again", "quiet");
}

#[test]
fn php_streams_over_tls() {
    check("half-php-tls", "quiet");
}

#[test]
fn ruby_net_http() {
    check("half-ruby", "quiet");
}

#[test]
fn python_urllib() {
    check("half-urllib", "quiet");
}

#[test]
fn python_urllib_with_a_timeout() {
    check("half-urllib-timeout", "quiet");
}
