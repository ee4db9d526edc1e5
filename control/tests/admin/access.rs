//! Users, permissions and REST channels: listed and removed.

use crossdock_tests::Answer;
use serde_json::json;

use crate::server::Server;

async fn delete(server: &Server, path: &str) -> Answer {
    server.admin.send("DELETE", &format!("/api/v1/{path}"), &[], Vec::new()).await.unwrap()
}

async fn apply(server: &Server, document: &str) -> Answer {
    server.admin.post_as("application/yaml", "/api/v1/apply", document).await
}

#[tokio::test]
async fn what_was_applied_is_listed_and_removed() {
    let server = Server::start().await;
    let document = "
topics: [{name: orders}]
users: [{name: carol}]
permissions: [{name: readers, users: [carol], consume: [orders]}]
rest_channels: [{name: intake, path: /orders, topic: orders}]
";
    let applied = apply(&server, document).await.expect(200).json();
    assert_eq!(
        applied["steps"][1]["detail"],
        "without a password or API key: nobody can log in as it until one is applied"
    );
    let users = server.admin.get("/api/v1/users").await.expect(200);
    assert!(!users.text().contains("argon2"), "{}", users.text());
    let known = |name: &str, there: bool| json!({"name": name, "has_password": there, "has_api_key": there});
    assert_eq!(
        users.json(),
        json!({"users": [known("admin", true), known("bob", true), known("carol", false)]})
    );
    let permissions = server.admin.get("/api/v1/permissions").await.expect(200).json();
    assert_eq!(
        permissions["permissions"][1],
        json!({"name": "readers", "users": ["carol"], "consume": ["orders"], "admin": false})
    );
    let channels = server.admin.get("/api/v1/rest-channels").await.expect(200).json();
    assert_eq!(channels["rest_channels"][0]["path"], "/orders");

    // The name left in a permission would give its rights to the next one of that name.
    assert!(delete(&server, "users/carol").await.problem(409, "conflict").contains("readers"));
    for path in ["rest-channels/intake", "permissions/readers", "users/carol"] {
        let _ = delete(&server, path).await.expect(204);
        delete(&server, path).await.problem(404, "not_found");
    }
    let status = server.admin.get("/api/v1/status").await.expect(200).json();
    assert_eq!((&status["counts"]["users"], &status["counts"]["rest_channels"]), (&json!(2), &json!(0)));
    delete(&server, "users/a%20b").await.problem(400, "invalid_argument");
    let bob = server.bob().send("DELETE", "/api/v1/users/admin", &[], Vec::new()).await.unwrap();
    bob.problem(403, "permission_denied");
    server.stop().await;
}

#[tokio::test]
async fn the_last_administrator_stays() {
    let server = Server::start().await;
    for path in ["users/admin", "permissions/admins"] {
        assert!(delete(&server, path).await.problem(409, "conflict").contains("administrator"));
    }
    // With a second one the first can go.
    let _ = apply(&server, "permissions: [{name: more, users: [bob], admin: true}]").await.expect(200);
    let _ = delete(&server, "permissions/admins").await.expect(204);
    server.stop().await;
}
