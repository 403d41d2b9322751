//! Injects faults of all kinds repeatedly under load. Afterwards the oracle compares the answers with the rows in
//! PostgreSQL.
//!
//! `make torture` is the long form: `TORTURE_TIMES` is the number of injections of each fault, `TORTURE_SEED`
//! determines their order.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;

use crate::support::faults::{Arena, Fault, Loss, Report};
use crate::support::oracle::{Finding, Verdict};

const SENDERS: usize = 16;

/// Rounds for each injection of [`Fault::LargeWal`], which takes many times as long as the other faults.
const ROUNDS_PER_LARGE_WAL: usize = 20;

/// Each fault `times` times, in a random order.
fn faults(times: usize, has_small_disk: bool, seed: u64) -> Vec<Fault> {
    let mut faults = Vec::new();
    for round in 0..times {
        faults.extend(Fault::ALL.into_iter().filter(|fault| match fault {
            Fault::FillDisk => has_small_disk,
            // These faults take long. With a single round (`make test`), only `single_faults.rs` injects them.
            Fault::LargeWal => times > 1 && round.is_multiple_of(ROUNDS_PER_LARGE_WAL),
            fault => times > 1 || !fault.is_of_stderr(),
        }));
    }
    faults.shuffle(&mut StdRng::seed_from_u64(seed));
    faults
}

#[test]
fn only_losses_that_a_fault_explains_and_the_receiver_counted_are_accepted() {
    let finding = |(subject, answered): &(&str, i64)| Finding {
        subject: (*subject).to_owned(),
        answered: *answered,
        what: String::new(),
    };
    let is_good = |verdict, reported| {
        let loss = Loss { fault: Fault::EmptyWal, from: 10, to: 20, reported };
        let report = Report { verdict, losses: vec![loss], ..Report::default() };
        std::panic::catch_unwind(|| report.assert_good()).is_ok()
    };
    let lost = |lost: &[(&str, i64)], missing: i64, reported| {
        let lost = lost.iter().map(finding).collect();
        is_good(Verdict { lost, counted_again: -missing, ..Verdict::default() }, reported)
    };
    assert!(lost(&[], 0, 0));
    assert!(lost(&[("a", 10), ("b", 20)], 3, 3));
    assert!(!lost(&[("a", 9)], 1, 1), "acknowledged before the fault could lose it");
    assert!(!lost(&[("a", 21)], 1, 1), "acknowledged after the fault");
    assert!(!lost(&[("a", 10), ("b", 20)], 2, 1), "more executions than reported");
    assert!(!lost(&[("a", 10)], 2, 1), "more deliveries than reported");

    // The first delivery of an execution is lost, the second is recorded as the execution, the third as a conflict.
    let confused = |times: [i64; 3]| {
        let [lost, different, unexplained] = times.map(|answered| vec![finding(&("a", answered))]);
        Verdict { lost, different, unexplained, counted_again: -1 }
    };
    assert!(is_good(confused([15; 3]), 1), "one lost delivery of one execution");
    assert!(!is_good(confused([15; 3]), 0), "a loss that is not reported");
    assert!(!is_good(confused([15, 15, i64::MIN]), 1), "a row of an execution that was not sent");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn acknowledged_deliveries_are_recorded_whatever_fails() {
    let variable = |name| std::env::var(name).ok().map(|value| value.parse::<u64>().unwrap());
    let times = usize::try_from(variable("TORTURE_TIMES").unwrap_or(1)).unwrap();
    let seed = variable("TORTURE_SEED").unwrap_or_else(rand::random);
    println!("TORTURE_TIMES={times} TORTURE_SEED={seed}");
    let mut arena = Arena::start(SENDERS, seed).await;
    let mut injected: HashMap<Fault, (u64, u64, Duration)> = HashMap::new();
    let begun = Instant::now();
    for fault in faults(times, arena.has_small_disk(), seed) {
        let (before, start) = (arena.acknowledged(), Instant::now());
        arena.inject(fault).await;
        let count = injected.entry(fault).or_default();
        count.0 += 1;
        count.1 += arena.acknowledged() - before;
        count.2 += start.elapsed();
    }
    let report = arena.finish().await;

    let mut table = format!("\n{:<36}{:>8}{:>16}{:>10}\n", "", "times", "acknowledged", "seconds");
    for fault in Fault::ALL {
        let (times, work, time) = injected.get(&fault).copied().unwrap_or_default();
        let _ = writeln!(table, "{:<36}{times:>8}{work:>16}{:>10}", fault.name(), time.as_secs());
    }
    let row = |name: &str| usize::try_from(report.tables[name].as_u64().unwrap()).unwrap();
    for (what, count) in [
        ("deliveries answered 200", usize::try_from(report.counts.acknowledged).unwrap()),
        ("deliveries answered 422", report.rejected),
        ("tries answered 503", usize::try_from(report.counts.refused).unwrap()),
        ("tries without an answer", usize::try_from(report.counts.unclear).unwrap()),
        ("executions recorded", row("executions")),
        ("conflicts recorded", row("conflicts")),
        ("in quarantine", row("quarantine")),
        ("rows lost", report.verdict.lost.len()),
        ("rows with other values", report.verdict.different.len()),
        ("rows without a request", report.verdict.unexplained.len()),
        ("deliveries reported as lost", report.reported_as_lost()),
        ("interruptions", usize::try_from(report.interruptions).unwrap()),
        ("deliveries counted again", usize::try_from(report.verdict.counted_again.max(0)).unwrap()),
        ("bulks, rollups, changes that are wrong", report.wrong_counts.len()),
        ("left in the spool", usize::try_from(report.left).unwrap()),
        ("seconds", usize::try_from(begun.elapsed().as_secs()).unwrap()),
    ] {
        let _ = writeln!(table, "{what:<36}{:>8}{count:>16}", "");
    }
    println!("{table}");
    report.assert_good();
}
