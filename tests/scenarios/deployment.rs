//! docker-compose.yml and what belongs to it, run as they are but for the containers: each would-be container is a process
//! with a loopback address of its own.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command as Blocking, Stdio};
use std::time::Duration;

use crossdock_tests::{Client, eventually, nats_server};
use serde_json::Value;
use tokio::process::{Child, Command};

const PATIENCE: Duration = Duration::from_secs(90);

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the project").to_owned()
}

fn read(name: &str) -> String {
    std::fs::read_to_string(root().join(name)).unwrap_or_else(|cause| panic!("{name}: {cause}"))
}

/// The services of docker-compose.yml with what they share filled in.
fn services(compose: &Value) -> Vec<(String, Value)> {
    let all = compose["services"].as_object().expect("services");
    let filled = all.iter().map(|(name, service)| {
        let mut filled = service["<<"].as_object().cloned().unwrap_or_default();
        filled.extend(service.as_object().expect("a service").clone());
        (name.clone(), Value::Object(filled))
    });
    filled.collect()
}

fn compose() -> Value {
    serde_saphyr::from_str(&read("docker-compose.yml")).expect("YAML")
}

fn texts(value: &Value) -> Vec<&str> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

/// How the image is asked whether it is well.
fn health_of_image() -> Vec<String> {
    let dockerfile = read("Dockerfile");
    let line = dockerfile
        .lines()
        .find_map(|line| line.trim().strip_prefix("CMD [\"python3\""))
        .expect("a health check");
    serde_json::from_str(&format!("[\"python3\"{line}")).expect("a command")
}

#[test]
fn given_the_compose_file_when_read_should_name_only_what_is_there() {
    let compose = compose();
    let services = services(&compose);
    let keys = |part: &str| -> BTreeSet<String> {
        compose[part].as_object().into_iter().flatten().map(|(key, _)| key.clone()).collect()
    };
    let (networks, volumes, secrets) = (keys("networks"), keys("volumes"), keys("secrets"));
    let names: BTreeSet<_> = services.iter().map(|(name, _)| name.clone()).collect();
    assert_eq!(names.len(), 7, "{names:?}");
    for (name, service) in &services {
        for on in service["depends_on"].as_object().into_iter().flatten() {
            assert!(names.contains(on.0) && on.1["condition"] == "service_healthy", "{name}: {on:?}");
        }
        for network in texts(&service["networks"]) {
            assert!(networks.contains(network), "{name}: {network}");
        }
        for secret in service["secrets"].as_array().into_iter().flatten() {
            let secret = secret.as_str().or(secret["source"].as_str()).expect("a secret");
            assert!(secrets.contains(secret), "{name}: {secret}");
        }
        for mount in texts(&service["volumes"]) {
            let from = mount.split(':').next().unwrap_or_default();
            let there =
                if from.starts_with('.') { root().join(from).exists() } else { volumes.contains(from) };
            assert!(there, "{name}: {mount}");
        }
        let image = service["image"].as_str().expect("an image");
        assert!(image != "crossdock" || service["build"] == ".", "{name}: nobody else has this image");
        assert!(service["healthcheck"].is_object() || image == "crossdock", "{name} has no health check");
    }
    assert!(health_of_image().concat().contains("/health"));
    // What makes the secrets makes all of them, once.
    let folder = tempfile::tempdir().expect("a folder");
    let make = || {
        let made = Blocking::new(root().join("deploy/make-secrets"))
            .arg(folder.path())
            .stderr(Stdio::null())
            .status();
        assert!(made.expect("the script").success());
        secrets
            .iter()
            .map(|name| std::fs::read_to_string(folder.path().join(name)).expect("a secret"))
            .collect::<Vec<_>>()
    };
    let made = make();
    assert_eq!(made, make());
    for (name, secret) in compose["secrets"].as_object().into_iter().flatten() {
        assert_eq!(secret["file"].as_str(), Some(format!("./deploy/secrets/{name}").as_str()));
    }
}

#[test]
fn given_the_compose_file_when_checked_by_compose_should_be_valid() {
    let folder = tempfile::tempdir().expect("a folder");
    // A copy, with the secrets where it says that they are.
    for name in ["docker-compose.yml", "deploy/nats.conf", "deploy/haproxy.cfg", "deploy/make-secrets"] {
        let to = folder.path().join(name);
        std::fs::create_dir_all(to.parent().expect("a folder")).expect("a folder");
        std::fs::copy(root().join(name), to).expect("a copy");
    }
    let made = Blocking::new(folder.path().join("deploy/make-secrets")).stderr(Stdio::null()).status();
    assert!(made.expect("the script").success());
    let programs: [&[&str]; 2] = [&["docker", "compose"], &["docker-compose"]];
    let there = programs.into_iter().find(|program| {
        let version = Blocking::new(program[0]).args(&program[1..]).arg("version").output();
        version.is_ok_and(|version| version.status.success())
    });
    let Some(program) = there else {
        eprintln!("skipped: there is neither `docker compose` nor `docker-compose` on this machine");
        return;
    };
    let checked = Blocking::new(program[0])
        .args(&program[1..])
        .args(["config", "--quiet"])
        .current_dir(folder.path())
        .output();
    let checked = checked.expect("the program");
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
}

/// The would-be containers.
struct Fleet {
    folder: tempfile::TempDir,
    compose: Value,
    /// What all their addresses begin with.
    net: String,
    running: Vec<(String, Child)>,
}

impl Fleet {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let made = Blocking::new(root().join("deploy/make-secrets"))
            .arg(folder.path().join("secrets"))
            .stderr(Stdio::null())
            .status();
        assert!(made.expect("the script").success());
        let pid = std::process::id();
        let net = format!("127.{}.{}", 64 + pid / 256 % 128, pid % 256);
        Self { folder, compose: compose(), net, running: Vec::new() }
    }

    /// The address of a container: those of one kind stand side by side.
    fn address(&self, name: &str) -> String {
        let (kind, number) = name.split_once('-').unwrap_or((name, "0"));
        let first =
            ["nats", "crossdock", "balancer"].iter().position(|known| *known == kind).expect("a kind");
        format!("{}.{}", self.net, 10 * (first + 1) + number.parse::<usize>().expect("a number"))
    }

    /// A text of a container's configuration, command line or environment, as it is meant here.
    fn here(&self, name: &str, text: &str) -> String {
        let own = self.address(name);
        let secrets = self.folder.path().join("secrets").display().to_string();
        let data = self.folder.path().join(name).join("data").display().to_string();
        let mut text = text
            .replace("0.0.0.0", &own)
            .replace("127.0.0.1", &own)
            .replace("/run/secrets", &secrets)
            .replace("\"/data\"", &format!("{data:?}"));
        for (other, _) in services(&self.compose).iter().filter(|(other, _)| other != "balancer") {
            // Where it is a host: the name of a server in a configuration stays.
            for (before, after) in [("//", ""), (",", ""), (" ", ":")] {
                text = text.replace(
                    &format!("{before}{other}{after}"),
                    &format!("{before}{}{after}", self.address(other)),
                );
            }
        }
        text
    }

    fn service(&self, name: &str) -> Value {
        services(&self.compose).into_iter().find(|(known, _)| known == name).expect("a service").1
    }

    /// Starts a container's program, with its configuration written out.
    fn start(&mut self, name: &str, program: &Path, config: Option<(&str, &str)>) {
        let own = self.folder.path().join(name);
        std::fs::create_dir_all(&own).expect("a folder");
        let _ = std::fs::copy(self.folder.path().join("secrets/nats.json"), own.join("nats.json"))
            .expect("a copy");
        let service = self.service(name);
        let mut command = Command::new(program);
        for argument in texts(&service["command"]) {
            command.arg(self.here(name, &argument.replace("/etc/nats", &own.display().to_string())));
        }
        if let Some((from, to)) = config {
            std::fs::write(own.join(to), self.here(name, &read(from))).expect("a configuration");
        }
        if name == "balancer" {
            command.arg("-db").arg("-f").arg(own.join("haproxy.cfg"));
        }
        for (variable, value) in service["environment"].as_object().into_iter().flatten() {
            command.env(variable, self.here(name, value.as_str().expect("a text")));
        }
        let log = std::fs::OpenOptions::new().create(true).append(true).open(own.join("log")).expect("a log");
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("a handle")).stderr(log).current_dir(&own);
        let child = command.env("HOME", &own).kill_on_drop(true).spawn().expect("it starts");
        self.running.push((name.to_owned(), child));
    }

    /// Waits until a container's own health check says that it is well.
    async fn healthy(&self, name: &str) {
        let check: Vec<String> = match texts(&self.service(name)["healthcheck"]["test"]).as_slice() {
            [] => health_of_image(),
            ["CMD", check @ ..] => check.iter().map(|word| (*word).to_owned()).collect(),
            other => panic!("{other:?} is no command"),
        };
        let check: Vec<_> = check.iter().map(|word| self.here(name, word)).collect();
        eventually(&format!("{name} to be well"), PATIENCE, || async {
            let mut command = Command::new(&check[0]);
            let asked = command.args(&check[1..]).stdout(Stdio::null()).stderr(Stdio::null()).status().await;
            asked.unwrap_or_else(|cause| panic!("{check:?}: {cause}")).success().then_some(())
        })
        .await;
    }

    async fn kill(&mut self, name: &str) {
        let place = self.running.iter().position(|(running, _)| running == name).expect("a process");
        self.running.remove(place).1.kill().await.expect("to kill it");
    }

    /// A client of what listens there, as the user `admin`.
    fn client(&self, name: &str, port: u16) -> Client {
        let password =
            std::fs::read_to_string(self.folder.path().join("secrets/admin-password")).expect("a password");
        let user = Some(("admin".to_owned(), password.trim().to_owned()));
        Client::new(&format!("http://{}:{port}", self.address(name)), user)
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for (name, _) in &self.running {
                let log = std::fs::read(self.folder.path().join(name).join("log")).unwrap_or_default();
                let text = String::from_utf8_lossy(&log);
                eprintln!("--- the log of {name}\n{}\n---", &text[text.len().saturating_sub(3000)..]);
            }
        }
    }
}

/// Where a balancer is, if there is one on this machine.
fn haproxy() -> Option<PathBuf> {
    ["/usr/sbin/haproxy", "/usr/local/sbin/haproxy", "/usr/bin/haproxy"]
        .iter()
        .map(PathBuf::from)
        .find(|path| path.exists())
}

#[tokio::test]
async fn given_the_parts_of_the_compose_file_when_run_should_be_well_and_survive_the_loss_of_one() {
    let mut fleet = Fleet::new();
    for number in 1..=3 {
        fleet.start(&format!("nats-{number}"), &nats_server(), Some(("deploy/nats.conf", "nats.conf")));
    }
    for number in 1..=3 {
        fleet.healthy(&format!("nats-{number}")).await;
    }
    for number in 1..=3 {
        fleet.start(&format!("crossdock-{number}"), Path::new(env!("CARGO_BIN_EXE_crossdock")), None);
    }
    for number in 1..=3 {
        fleet.healthy(&format!("crossdock-{number}")).await;
    }
    let entrance = match haproxy() {
        Some(program) => {
            fleet.start("balancer", &program, Some(("deploy/haproxy.cfg", "haproxy.cfg")));
            fleet.healthy("balancer").await;
            "balancer"
        }
        None => {
            eprintln!("without a balancer: there is no haproxy on this machine");
            "crossdock-2"
        }
    };
    let (gateway, admin) = (fleet.client(entrance, 7400), fleet.client(entrance, 7401));
    let status = eventually("the way in to be open", PATIENCE, || async {
        let answer = admin.send("GET", "/api/v1/status", &[], Vec::new()).await.ok()?;
        (answer.status == 200).then(|| answer.json())
    })
    .await;
    assert!(
        status["health"]["detail"].as_str().is_some_and(|detail| detail.contains("quorum(3)")),
        "{status}"
    );
    assert_eq!(status["members"].as_array().map(Vec::len), Some(3), "{status}");
    let yaml = &[("content-type", "application/yaml")];
    let document = "topics: [{name: orders}]\nrest_channels: [{name: orders, path: /orders, methods: [POST], topic: orders, message_id_header: Idempotency-Key}]\n";
    let _ = admin.send("POST", "/api/v1/apply", yaml, document).await.expect("an answer").expect(200);
    let order = |number: u32| {
        let (gateway, id) = (gateway.clone(), number.to_string());
        async move {
            eventually("an order to be taken", PATIENCE, || async {
                let headers = [("content-type", "application/json"), ("idempotency-key", id.as_str())];
                let answer = gateway.send("POST", "/orders", &headers, id.clone()).await.ok()?;
                (answer.status == 202).then_some(())
            })
            .await;
        }
    };
    for number in 0..20 {
        order(number).await;
    }
    fleet.kill("crossdock-1").await;
    fleet.kill("nats-3").await;
    for number in 20..40 {
        order(number).await;
    }
    let read = eventually("all to be read", PATIENCE, || async {
        let answer = admin.send("GET", "/api/v1/topics/orders", &[], Vec::new()).await.ok()?;
        (answer.status == 200).then_some(())?;
        let messages = admin.read_topic("orders").await;
        (messages.len() >= 40).then_some(messages)
    })
    .await;
    let numbers: Vec<u32> = read.iter().map(|message| message.json().parse().expect("a number")).collect();
    assert_eq!(numbers, (0..40).collect::<Vec<_>>(), "each once, in order");
}
