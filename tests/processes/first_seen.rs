//! First requests of a subject: one process asks the hook, and another takes over from one that dies in it.

use agentkey::{Amount, KeyQuery};
use http::StatusCode;
use tokio::task::JoinSet;

use crate::fixture::{ACCOUNT, Fixture};
use crate::{HANG, storm, until};

pub async fn two_hundred_first_requests_of_a_subject_ask_the_hook_once(
    fixture: &Fixture,
    processes: usize,
) {
    let workers = fixture.workers(processes);
    let answers = storm(&workers, &["ext.m7".to_owned()], "/hold", 200).await;

    assert_eq!(answers.get(&StatusCode::OK), Some(&100), "{answers:?}");
    let (mut asked, mut worked) = (0, 0);
    for worker in &workers {
        asked += worker.hooks_that_were_asked().await;
        worked += worker.handlers_that_worked().await;
    }
    assert_eq!((asked, worked), (1, 100));
    assert_eq!(charged_to_the_only_subject(fixture).await, Amount::cents(100));
}

/// The clocks of the processes stand still at instants before and after the lease of the killed process ends.
pub async fn another_process_takes_over_from_one_that_was_killed_in_the_hook(
    fixture: &Fixture,
    processes: usize,
) {
    let token = "ext.slow.m8".to_owned();
    let at = |instant: &str| fixture.limited_workers(1, Some(instant)).remove(0);
    let mut first = at("2026-01-31T12:00:00Z");
    let early: Vec<_> = (0..processes).map(|_| at("2026-01-31T12:00:09Z")).collect();
    let late = at("2026-01-31T12:00:11Z");
    let (client, sent) = (first.client(), token.clone());
    let killed = tokio::spawn(async move { client.post("/hold", &sent).await.map(drop) });
    until(async || first.hooks_that_were_asked().await == 1).await;

    let mut waiting = JoinSet::new();
    for worker in &early {
        for _ in 0..4 {
            let (client, token) = (worker.client(), token.clone());
            waiting.spawn(async move { client.post("/hold", &token).await.unwrap().0 });
        }
        until(async || worker.credentials_that_were_verified().await == 4).await;
    }
    first.kill();
    assert!(killed.await.unwrap().is_err(), "the process died before its answer");
    assert!(waiting.try_join_next().is_none(), "the claim of the dead process lives");

    // Only the hook of this process is let go on.
    late.client().post("/go", "").await.unwrap();
    let answers = storm(std::slice::from_ref(&late), &[token], "/hold", 20).await;
    assert_eq!(answers.get(&StatusCode::OK), Some(&20), "{answers:?}");
    let waited = tokio::time::timeout(HANG, waiting.join_all()).await.unwrap();
    assert!(waited.iter().all(|status| *status == StatusCode::OK), "{waited:?}");

    assert_eq!(late.hooks_that_were_asked().await, 1);
    for worker in &early {
        assert_eq!(worker.hooks_that_were_asked().await, 0);
    }
    let requests = 20 + i32::try_from(waited.len()).unwrap();
    assert_eq!(charged_to_the_only_subject(fixture).await, Amount::cents(requests));
}

/// What was charged to a subject in the fixture's account, which has only one.
async fn charged_to_the_only_subject(fixture: &Fixture) -> Amount {
    let subjects = KeyQuery::for_account(ACCOUNT.parse().unwrap()).subjects();
    let subjects = fixture.keys.keys(&subjects).await.unwrap().items;
    assert_eq!(subjects.len(), 1, "{subjects:?}");
    let (spent, held) = fixture.spent_and_held(subjects[0].id).await;
    assert_eq!(held, Amount::ZERO);
    spent
}
