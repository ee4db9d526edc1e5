//! The shipped torture, for a short while.

use serde_json::Value;

use crate::sandbox;

#[tokio::test]
async fn given_kills_full_disks_and_damage_when_verified_should_find_nothing_lost() {
    let sandbox = sandbox().prepare();
    let ran = sandbox
        .cli(&[
            "verify",
            "--for",
            "12s",
            "--crash",
            "--disk-full",
            "--corrupt",
            "--directory",
            "scratch",
            "-o",
            "json",
        ])
        .await
        .expect(0);
    let report: Value = serde_json::from_str(&ran.stdout).expect("JSON on stdout");
    let count = |name: &str| report[name].as_u64().unwrap_or_else(|| panic!("{name} in {report}"));
    assert_eq!((count("losses"), &report["violations"]), (0, &Value::Array(Vec::new())), "{report}");
    assert!(count("kills") > 2 && count("acknowledged") > 0 && count("deliveries") > 0, "{report}");
    let damages = report["damages"].as_object().expect("what came of damage");
    let damages: u64 = damages.values().filter_map(Value::as_u64).sum();
    assert_eq!(damages, 3 * count("rounds"), "{report}");
    assert!(report["fsync_p50_ms"].as_f64().is_some_and(|time| time > 0.0), "{report}");
    let left = sandbox.bash("test ! -e scratch && echo gone").await.expect(0);
    assert_eq!(left.stdout, "gone\n", "a folder is left only when something was wrong");
}

#[tokio::test]
async fn given_a_folder_with_something_in_it_when_verified_should_leave_it_alone() {
    let sandbox = sandbox().prepare();
    let _ = sandbox.bash("mkdir mine && echo precious > mine/file").await.expect(0);
    let refused = sandbox.cli(&["verify", "--for", "5s", "--directory", "mine"]).await.expect(2);
    assert!(refused.stderr.contains("mine is not empty"), "{}", refused.stderr);
    assert_eq!(sandbox.bash("cat mine/file").await.expect(0).stdout, "precious\n");
}
