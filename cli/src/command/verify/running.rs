//! A load on a broker that is there, to which whoever runs it may do what he likes.

use crossdock_topics::Error;
use crossdock_verify::{Observed, Observing, observe};
use serde::Serialize;

use super::{Arguments, Caller};
use crate::failure::Result;
use crate::output::{Show, say};
use crate::server::broker::{BrokerUrl, Opening};

/// Where one way leads to the broker, the load uses it as so many clients.
const CLIENTS: usize = 2;

pub(super) async fn run(arguments: &Arguments, seed: u64, caller: &Caller) -> Result<()> {
    let opening = Opening {
        name: "crossdock verify".into(),
        ca: caller.ca.clone(),
        insecure: arguments.insecure,
        credentials: arguments.credentials.clone(),
        context: caller.context.clone(),
        accept_loss: false,
    };
    let mut urls = Vec::with_capacity(arguments.broker.len());
    for url in &arguments.broker {
        let url = BrokerUrl::given(Some(url))?;
        if matches!(url, BrokerUrl::Embedded(_)) {
            return Err(Error::invalid("a broker in a folder is not there for others")
                .hint("leave out --broker: then one is started on a folder, and killed")
                .into());
        }
        urls.push(url);
    }
    let mut brokers = Vec::new();
    for number in 0..CLIENTS.max(urls.len()) {
        brokers.push(opening.open(&urls[number % urls.len()]).await?);
    }
    let folder = arguments.directory.clone().unwrap_or_else(|| format!("crossdock-verify-{seed}").into());
    let options = Observing { brokers, seed, length: arguments.length, folder };
    say(&format!(
        "topics and subscriptions verify-{seed}.* are made, and removed at the end; Ctrl-C ends it early"
    ));
    let stop = async {
        let _ = tokio::signal::ctrl_c().await;
        say("ending: what was published is being settled and judged");
    };
    let observed = observe(&options, stop, tell).await;
    for broker in &options.brokers {
        broker.close().await;
    }
    let report = observed?;
    caller.output.one(&Verdict(&report))?;
    if report.violations.is_empty() {
        return Ok(());
    }
    let first: Vec<_> = report.violations.iter().take(3).map(|violation| violation.what.as_str()).collect();
    let broken =
        format!("promises were broken: {}. Such as: {}", report.broken().join(", "), first.join("; "));
    let hint = format!(
        "what was seen is in {} (history.txt, violations.txt), and the topics verify-{seed}.* are left as they are",
        options.folder.display()
    );
    Err(Error::internal(broken).hint(hint).into())
}

fn tell(report: &Observed) {
    say(&format!(
        "{:4.0} s: {} rounds, {} acknowledged, {} delivered, {} lost, {} violations; not answered for {:.1} s at most",
        report.seconds,
        report.rounds,
        report.counts.acknowledged,
        report.counts.deliveries,
        report.losses,
        report.violations.len(),
        report.publishing.longest_outage_ms.max(report.settling.longest_outage_ms) / 1000.0
    ));
}

#[derive(Serialize)]
#[serde(transparent)]
struct Verdict<'a>(&'a Observed);

impl Show for Verdict<'_> {
    const COLUMNS: &'static [&'static str] =
        &["seed", "lost", "violations", "acknowledged", "longest outage"];

    fn row(&self) -> Vec<String> {
        let Observed { seed, losses, violations, counts, publishing, .. } = self.0;
        vec![
            seed.to_string(),
            losses.to_string(),
            violations.len().to_string(),
            counts.acknowledged.to_string(),
            format!("{:.0} ms", publishing.longest_outage_ms),
        ]
    }

    fn name(&self) -> String {
        self.0.seed.to_string()
    }

    fn details(&self) -> Vec<(&'static str, String)> {
        let report = self.0;
        let counts = &report.counts;
        let pace = |pace: &crossdock_verify::Pace| {
            format!(
                "p50 {:.1} ms, p99 {:.1} ms; the longest without an answer {:.0} ms",
                pace.p50_ms, pace.p99_ms, pace.longest_outage_ms
            )
        };
        vec![
            ("lost", report.losses.to_string()),
            (
                "violations",
                if report.violations.is_empty() { "0".into() } else { report.broken().join(", ") },
            ),
            ("seed", report.seed.to_string()),
            ("took", format!("{:.0} s, {} rounds", report.seconds, report.rounds)),
            ("messages", format!("{} published, {} acknowledged", counts.published, counts.acknowledged)),
            ("deliveries", format!("{}, {} settlements acknowledged", counts.deliveries, counts.settlements)),
            ("not answered", format!("{} calls", counts.unanswered)),
            ("publishing", pace(&report.publishing)),
            ("settling", pace(&report.settling)),
        ]
    }
}
