//! Two threads wait in each other's mutex, as two requests of a payment service did. Does `ps` say `mutex` of both, and that it is a deadlock?

use tests::{Waiter, ps, why, why_page};

use crate::blocked::check_age;

#[test]
fn both_wait_for_a_lock_in_memory() {
    let waiter = Waiter::start("deadlock");
    waiter.until_age(3.0);
    let snapshot = ps(&["-p", &waiter.pid().to_string()]);
    let threads = waiter.line()["threads"].as_array().expect("a list").clone();
    assert_eq!(threads.len(), 2, "{threads:?}");
    for thread in &threads {
        let tid = thread["tid"].as_u64().and_then(|tid| u32::try_from(tid).ok()).expect("a tid");
        let row = snapshot.row(tid);
        assert_eq!((&row["syscall"], &row["fd"]), (&"futex".into(), &serde_json::Value::Null), "{row:#}");
        assert_eq!((&row["class"], &row["level"]), (&"mutex".into(), &"stuck".into()), "{row:#}");
        assert_eq!(row["deadlock"], true, "{row:#}");
        let begun = thread["realtime_ns"].as_i64().expect("a moment").into();
        check_age(row, begun, begun, &snapshot);
    }
    let report = why(waiter.pid());
    assert!(report["headline"].as_str().is_some_and(|text| text.contains("a deadlock")), "{report:#}");
    why_page(waiter.pid());
}
