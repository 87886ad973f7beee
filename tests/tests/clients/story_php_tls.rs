//! A PHP job sits in a TLS read for ever: the peer answered its first request, not its second, and nothing has a
//! time-out. Does `ps` say so?

use std::process::Stdio;
use std::thread::sleep;
use std::time::{Duration, Instant};

use tests::{LastWord, Manners, Talk, Tickets, TlsServer, ps, realtime_ns, seconds_between, start, why_page};

use crate::blocked::{call_of, check_age};
use crate::crowd::check_wait;
use tests::servers::clean;

/// Two requests on one connection; the first is answered with two bytes.
const JOB: &str = r#"
    $c = stream_context_create(['ssl' => ['verify_peer' => false, 'verify_peer_name' => false]]);
    $s = stream_socket_client('tls://{address}', $code, $text, 60, STREAM_CLIENT_CONNECT, $c);
    for ($i = 0; $i < 2; $i++) {
        fwrite($s, "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
        while (trim(fgets($s)) !== '');
        fread($s, 2);
    }
"#;

#[test]
fn the_job_waits_for_a_reply_for_ever() {
    let server = TlsServer::start(Manners { tickets: Tickets::AtOnce, answers: 1, half: false });
    let mut php = clean("php");
    // A negative time-out is none.
    php.args([
        "-d",
        "default_socket_timeout=-1",
        "-r",
        &JOB.replace("{address}", &server.address().to_string()),
    ]);
    php.stdin(Stdio::null());
    let mut php = start(php);
    let talk = until_unanswered(&server);
    assert!(php.ended().is_none(), "the job has ended");

    let snapshot = ps(&["-p", &php.pid().to_string()]);
    let row = snapshot.row(php.pid());
    check_wait(row, php.pid(), talk.client, server.address());
    check_age(row, talk.last_ns, talk.last_ns, &snapshot);
    assert_eq!(row["syscall"], call_of(php.pid()), "{row:#}");
    assert_eq!((&row["class"], &row["level"]), (&"reply".into(), &"stuck".into()), "{row:#}");
    let page = why_page(php.pid());
    assert!(page.contains(" is stuck: "), "{page}");
    let verdict = row["verdict"].as_str().unwrap_or_default();
    assert!(verdict.contains("it will wait for ever"), "the consequence is missing: {row:#}");
}

/// Waits until the second request is three seconds old.
fn until_unanswered(server: &TlsServer) -> Talk {
    let begin = Instant::now();
    loop {
        if let [talk] = &server.talks()[..]
            && talk.said_all
            && talk.last_word == LastWord::Client
            && seconds_between(talk.last_ns, realtime_ns()) > 3.0
        {
            return talk.clone();
        }
        assert!(begin.elapsed() < Duration::from_secs(60), "no second request: {:?}", server.talks());
        sleep(Duration::from_millis(20));
    }
}
