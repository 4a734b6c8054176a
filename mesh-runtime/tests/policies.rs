//! What is decided centrally, by the commands that decide it and the programs that it is decided about.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod support;

use support::world::{World, json, local, text};
use support::{eventually, get};

const DOCUMENT: &str = r#"
[policy]
default = "deny"

[[rules]]
name = "shop-reads-rates"
action = "allow"
from = ["shop"]
to = ["rates"]
methods = ["GET"]
paths = ["/eur"]
"#;

#[tokio::test]
async fn an_applied_document_is_in_force_at_once_and_after_a_restart() {
    let world = World::new();
    let (serve, control, _) = world.serve("127.0.0.1:0");
    let (_rates, _) = world.wrap(&control, "rates");
    let (_shop, shop_port) = world.wrap(&control, "shop");
    world.registered(&control, &["rates", "shop"]).await;
    let call = async |path: &str| get(local(shop_port), &format!("/call/rates.mesh{path}")).await;
    assert_eq!(call("/usd").await.0, 200);
    assert!(
        world
            .ask(&["policy", "show", "--control", &control])
            .contains("nothing was applied")
    );

    let file = world.path("mesh.toml");
    let file = file.to_str().unwrap();
    std::fs::write(file, DOCUMENT).unwrap();
    assert!(
        world
            .ask(&["apply", file, "--dry-run", "--control", &control])
            .contains("could be applied")
    );
    assert_eq!(world.ask(&["apply", file, "--control", &control]), "applied as revision 1\n");
    eventually(async || call("/usd").await.0 == 403).await;
    assert_eq!(call("/eur").await.0, 200);
    let (_, body) = call("/usd").await;
    assert_eq!(json(&body)["reason"], "forbidden");

    // What does not compile changes nothing, and every mistake has its place.
    std::fs::write(file, DOCUMENT.replace("\"allow\"", "\"alow\"").replace("methods", "method")).unwrap();
    let refused = world.output(&["apply", file, "--control", &control]);
    assert_eq!(refused.status.code(), Some(1));
    let mistakes = text(&refused.stderr);
    let places = [":7:10: error: `alow` is no action", ":10:1: error: unknown key `method`"];
    assert!(
        places.iter().all(|place| mistakes.contains(&format!("{file}{place}"))),
        "{mistakes}"
    );
    assert!(
        world
            .ask(&["policy", "show", "--control", &control])
            .contains("# revision 1, from ")
    );

    assert_eq!(serve.stop().code(), Some(0));
    let (_serve, _, _) = world.serve(&control);
    let shown = json(&world.ask(&["policy", "show", "--json", "--control", &control]));
    assert_eq!((&shown["revision"], &shown["text"]), (&1.into(), &DOCUMENT.into()));
    assert_eq!((call("/usd").await.0, call("/eur").await.0), (403, 200));

    std::fs::write(file, "").unwrap();
    assert_eq!(world.ask(&["apply", file, "--control", &control]), "applied as revision 2\n");
    eventually(async || call("/usd").await.0 == 200).await;
}

#[test]
fn a_question_is_answered_with_the_verdict_and_the_rule() {
    let world = World::new();
    let (_serve, control, _) = world.serve("127.0.0.1:0");
    let file = world.path("mesh.toml");
    std::fs::write(&file, DOCUMENT).unwrap();
    world.ask(&["apply", file.to_str().unwrap(), "--control", &control]);
    let check = |question: &[&str]| {
        let output = world.output(&[&["policy", "check"], question, &["--control", &control]].concat());
        (output.status.code(), text(&output.stdout) + &text(&output.stderr))
    };
    let allowed = (Some(0), "allow by the rule `shop-reads-rates`\n".to_owned());
    assert_eq!(check(&["shop", "rates", "GET", "/eur"]), allowed);
    assert_eq!(
        check(&["spiffe://mesh.local/service/shop", "rates", "GET", "//eur?x=1"]),
        allowed
    );
    assert_eq!(
        check(&["shop", "rates", "POST", "/eur"]),
        (Some(1), "deny by the default of rates\n".to_owned())
    );
    let (code, answer) = check(&["shop", "rates", "GET", "/eur", "--json"]);
    let answer = json(&answer);
    assert_eq!(
        (code, &answer["verdict"], &answer["served"]),
        (Some(0), &"allow".into(), &true.into())
    );

    std::fs::write(&file, DOCUMENT.replace("[policy]", "[policy]\nmode = \"audit\"")).unwrap();
    world.ask(&["apply", file.to_str().unwrap(), "--control", &control]);
    let (code, answer) = check(&["rates", "shop", "GET", "/"]);
    assert_eq!(
        (code, answer.as_str()),
        (
            Some(0),
            "deny by the default of shop (mode audit: it is served and reported)\n"
        )
    );

    let for_gold = "[policy]\ndefault = \"deny\"\nhandoffs = [\"ingress\"]\n[[rules]]\nname = \"gold\"\naction = \"allow\"\n\
                    scopes = [\"eur\"]\nclaims = { tier = \"gold\", level = 3 }\nports = [9300]\n";
    std::fs::write(&file, for_gold).unwrap();
    world.ask(&["apply", file.to_str().unwrap(), "--control", &control]);
    let whole = [
        "ingress",
        "rates",
        "GET",
        "/",
        "--port",
        "9300",
        "--claim",
        "tier=gold",
        "--claim",
        "level=3",
        "--scope",
        "eur",
    ];
    assert_eq!(check(&whole), (Some(0), "allow by the rule `gold`\n".to_owned()));
    for wrong in [(5, "9301"), (7, "tier=silver"), (9, "level=\"3\""), (11, "usd")] {
        let mut question = whole;
        question[wrong.0] = wrong.1;
        assert_eq!(check(&question).0, Some(1), "{wrong:?}");
    }
    assert_eq!(check(&["ingress", "rates", "GET", "/", "--claim", "gold"]).0, Some(2));

    let (code, answer) = check(&["shop", "rates", "GET", "eur"]);
    assert!(code == Some(1) && answer.contains("does not start with /"), "{answer}");
    assert_eq!(check(&["shop", "Rates", "GET", "/eur"]).0, Some(2));
}

const ROUTES: &str = r#"
[services.rates]
balance = "least-request"
breaker = { max_requests = 64 }

[[routes]]
name = "usd-is-closed"
to = ["rates"]
from = ["shop"]
match = { path = "/usd" }
fault = { abort = { status = 418 } }

[[routes]]
name = "old-name"
to = ["coins"]
service = "rates"
"#;

#[tokio::test]
async fn where_calls_go_is_pushed_to_programs_while_they_run() {
    let world = World::new();
    let (_serve, control, _) = world.serve("127.0.0.1:0");
    let (_rates, _) = world.wrap(&control, "rates");
    let (_shop, shop_port) = world.wrap(&control, "shop");
    world.registered(&control, &["rates", "shop"]).await;
    let call = async |url: &str| get(local(shop_port), &format!("/call/{url}")).await;
    assert_eq!(call("rates.mesh/usd").await.0, 200);
    let file = world.path("mesh.toml");
    let file = file.to_str().unwrap();
    std::fs::write(file, ROUTES).unwrap();
    assert_eq!(world.ask(&["apply", file, "--control", &control]), "applied as revision 1\n");
    eventually(async || call("rates.mesh/usd").await.0 == 418).await;
    let (_, body) = call("rates.mesh/usd").await;
    assert_eq!(json(&body)["reason"], "fault-injected");
    assert_eq!(call("rates.mesh/eur").await.0, 200);
    assert_eq!(
        call("coins.mesh/usd").await.0,
        200,
        "led to another service, and not routed again"
    );

    let mistaken = ROUTES
        .replace("least-request", "least-requests")
        .replace("to = [\"coins\"]", "to = [\"Coins\"]");
    std::fs::write(file, mistaken).unwrap();
    let refused = world.output(&["apply", file, "--control", &control]);
    assert_eq!(refused.status.code(), Some(1));
    let mistakes = text(&refused.stderr);
    let places = [
        ":3:11: error: `least-requests` is not a way to balance\n  hint: did you mean `least-request`?",
        ":15:7: error: `Coins` is no service name",
    ];
    assert!(
        places.iter().all(|place| mistakes.contains(&format!("{file}{place}"))),
        "{mistakes}"
    );
    assert_eq!(call("rates.mesh/usd").await.0, 418, "what does not compile changes nothing");
}
