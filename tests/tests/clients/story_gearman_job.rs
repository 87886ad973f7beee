//! A gearman worker is stuck in a job: the service that the job calls does not answer. Does `ps` name that service, not
//! the queue?

use std::process::Stdio;
use std::thread::sleep;
use std::time::{Duration, Instant};

use tests::{MuteServer, ps, realtime_ns, seconds_between, start, why_page};

use crate::blocked::check_age;
use crate::crowd::check_wait;
use tests::servers::{clean, gearman, gearman_status, gearmand, must};

/// The job's load is the address of the service it calls.
const WORKER: &str = r#"
    $worker = new GearmanWorker();
    $worker->addServer('127.0.0.1', (int) $argv[1]);
    $worker->addFunction('pay', function ($job) {
        $service = stream_socket_client('tcp://' . $job->workload());
        fwrite($service, "pay\n");
        return fgets($service);
    });
    while ($worker->work());
"#;

#[test]
fn the_job_s_service_is_named() {
    let (queue, service) = (gearmand(), MuteServer::start(&[]));
    let mut worker = clean("php");
    worker.args(["-d", "default_socket_timeout=-1", "-r", WORKER, "--", &queue.port()]).stdin(Stdio::null());
    let mut worker = start(worker);
    must(gearman(&queue, &["-b", "-f", "pay", &service.address().to_string()]));
    let begin = Instant::now();
    let talk = loop {
        if let [talk] = &service.talks()[..]
            && seconds_between(talk.last_ns, realtime_ns()) > 3.0
        {
            break talk.clone();
        }
        assert!(worker.ended().is_none(), "the worker has ended");
        let status = || gearman_status(&queue);
        assert!(begin.elapsed() < Duration::from_secs(60), "the job was not begun:\n{}", status());
        sleep(Duration::from_millis(20));
    };

    let snapshot = ps(&["-p", &worker.pid().to_string()]);
    let [row] = &snapshot.rows[..] else { panic!("not one row: {:#?}", snapshot.rows) };
    check_wait(row, worker.pid(), talk.client, service.address());
    check_age(row, talk.last_ns, talk.last_ns, &snapshot);
    assert_eq!((&row["class"], &row["level"]), (&"reply".into(), &"stuck".into()), "{row:#}");
    let page = why_page(worker.pid());
    assert!(page.contains(" is stuck: ") && page.contains(&service.address().to_string()), "{page}");
    assert_eq!(gearman_status(&queue), "pay\t1\t1\t1\n", "the queue calls it a job that runs");
}
