//! Who gets in, and what bad requests are told.

use crate::server::Server;

#[tokio::test]
async fn every_route_of_the_description_asks_who_it_is_and_wants_an_admin() {
    let server = Server::start().await;
    let document = server.admin.with_user(None).get("/api/v1/openapi.json").await.expect(200).json();
    let mut asked = 0;
    for (path, operations) in document["paths"].as_object().unwrap() {
        for (method, operation) in operations.as_object().unwrap() {
            if operation["security"] == serde_json::json!([{}]) {
                continue;
            }
            asked += 1;
            let (method, path) = (method.to_uppercase(), path.replace("{name}", "x"));
            let nobody = server.admin.with_user(None).send(&method, &path, &[], Vec::new()).await.unwrap();
            assert!(nobody.header("www-authenticate").is_some(), "{method} {path}");
            nobody.problem(401, "unauthenticated");
            let bob = server.bob().send(&method, &path, &[], Vec::new()).await.unwrap();
            bob.problem(403, "permission_denied");
        }
    }
    assert!(asked > 20, "only {asked} routes ask");
    server.stop().await;
}

#[tokio::test]
async fn an_api_key_opens_the_door_as_a_password_does() {
    let server = Server::start().await;
    let nobody = server.admin.with_user(None);
    for header in
        [("x-api-key", "admin.0123456789abcdef"), ("authorization", "Bearer admin.0123456789abcdef")]
    {
        let answer = nobody.send("GET", "/api/v1/topics", &[header], Vec::new()).await.unwrap();
        let _ = answer.expect(200);
    }
    let wrong = [("x-api-key", "admin.fedcba9876543210")];
    nobody.send("GET", "/api/v1/topics", &wrong, Vec::new()).await.unwrap().problem(401, "unauthenticated");
    server.stop().await;
}

#[tokio::test]
async fn bad_requests_are_told_what_is_wrong() {
    let server = Server::start().await;
    let admin = &server.admin;
    admin.get("/api/v1/nothing").await.problem(404, "not_found");
    let unknown = admin.get("/api/v1/services/nobody").await.expect(404).json();
    assert!(unknown["hint"].as_str().unwrap().contains("service ls"), "{unknown}");
    admin.get("/").await.problem(404, "not_found");
    let wrong = admin.send("DELETE", "/api/v1/topics", &[], Vec::new()).await.unwrap();
    assert!(wrong.header("allow").unwrap().contains("GET"));
    wrong.problem(405, "invalid_argument");

    admin.get("/api/v1/topics/a%20b").await.problem(400, "invalid_argument");
    admin.get("/api/v1/topics/%FF").await.problem(400, "invalid_argument");
    admin.get("/api/v1/topics/x/messages?form=start").await.problem(400, "invalid_argument");
    admin.get("/api/v1/topics/x/messages?max=many").await.problem(400, "invalid_argument");
    admin.get("/api/v1/topics/x/messages?max=1001").await.problem(400, "invalid_argument");
    admin.get("/api/v1/topics/x/messages?wait=1h").await.problem(400, "invalid_argument");
    admin.get("/api/v1/topics/x/messages?from=yesterday").await.problem(400, "invalid_argument");

    let put = |kind: &'static str, body: &'static str| async move {
        let headers = [("content-type", kind)];
        admin.send("PUT", "/api/v1/topics/x", &headers, body).await.unwrap()
    };
    let broken = put("application/json", "{\"retention\":\n {\"max_age\" 1}}").await;
    assert_eq!(broken.json()["line"], 2, "{}", broken.text());
    broken.problem(400, "invalid_argument");
    put("text/plain", "{}").await.problem(415, "unsupported_content");
    put("application/json", "[]").await.problem(400, "invalid_argument");
    put("application/json", "{\"retension\": {}}").await.problem(400, "invalid_argument");
    put("application/json", "{\"max_message_bytes\": 0}").await.problem(400, "invalid_argument");
    put("application/json", "{\"name\": \"y\"}").await.problem(400, "invalid_argument");
    admin.get("/api/v1/topics/x").await.problem(404, "not_found");
    server.stop().await;
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused() {
    let server = Server::start().await;
    let body = vec![b' '; 32 * 1024 * 1024 + 1];
    let answer = server.admin.post_as("application/json", "/api/v1/topics/orders/messages", body).await;
    answer.problem(413, "too_large");
    server.stop().await;
}
