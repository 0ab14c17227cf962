//! Imports from files and standard input.

use agentkey::model::{Cidrs, RateLimit, TokenHash};
use agentkey::{Amount, Budget, Token};

use crate::world::{World, on_both_databases};

on_both_databases! {
    a_csv_file_is_imported_once
    json_lines_come_from_standard_input
    many_keys_are_imported_in_one_command
    limits_of_requests_are_imported
    no_error_shows_a_value
    a_broken_line_hides_nothing_of_what_was_imported
    a_file_that_cannot_be_read_says_so
}

const TOKEN: &str = "sk-proj-abcdefghijklmnop0123";

async fn a_csv_file_is_imported_once(world: &World) {
    let hash = TokenHash::digest("sk-1-0123456789");
    let file = world.file(
        "keys.csv",
        &format!(
            "hash,token,account,scopes,name,budget,period,spent,disabled\n\
             {hash},,acme,read proxy.*,crawler,50,month,12.5,\n\
             ,{TOKEN},acme,*,,,,,true\n\
             ,,acme,read,,,,,\n"
        ),
    );
    let run = world.run(&["key", "import", &file]);
    assert_eq!(run.code, 1, "one record has no hash: {run:?}");
    assert!(run.stdout.contains("Imported 2 keys; 0 were known"), "{run:?}");
    assert!(run.stderr.contains("line 4: not imported: hash: "), "{run:?}");
    assert!(run.stderr.contains("correct them"), "{run:?}");
    let again = world.run(&["key", "import", &file, "--json"]);
    let report = again.document();
    assert_eq!((&report["new"], &report["known"]), (&0.into(), &2.into()));
    assert_eq!((again.code, &report["failed"][0]["line"]), (1, &4.into()));

    let service = world.service().await;
    let token = |text| Token::parse_foreign(text).unwrap();
    let first = service.find(&token("sk-1-0123456789")).await.unwrap().unwrap();
    assert_eq!(
        (first.key().name.as_str(), first.remaining()),
        ("crawler", Some(Amount::cents(3_750)))
    );
    assert_eq!(first.key().budget, Budget::monthly(Amount::units(50)));
    let second = service.find(&token(TOKEN)).await.unwrap().unwrap();
    assert!(second.key().scopes.is_unrestricted() && second.key().disabled_at.is_some());
    assert!(TOKEN.starts_with(&second.key().start) && !second.key().start.is_empty());
    service.shutdown().await;
}

async fn json_lines_come_from_standard_input(world: &World) {
    let lines = format!(
        "{}\n\n{}\n{}\n{}\n",
        r#"{"token": "sk-2-0123456789", "scopes": ["read", "write"], "budget": 0.1, "metadata": {"a": 1}}"#,
        format_args!(
            r#"{{"hash": "{}", "scopes": "*", "account": "other"}}"#,
            TokenHash::digest("b")
        ),
        r#"{"token": "sk-3-0123456789", "scopes": "", "budgt": 5}"#,
        r#"["sk-4-0123456789"]"#,
    );
    let import = ["key", "import", "-", "--format", "jsonl", "--account", "acme"];
    let checked = world.run_with_input(&[&import[..], &["--check"]].concat(), &lines);
    assert!(checked.stdout.contains("2 records can be imported"), "{checked:?}");
    assert!(world.ok(&["key", "list"]).is_empty(), "--check imports nothing");
    let run = world.run_with_input(&[&import[..], &["--json"]].concat(), &lines);
    let report = run.document();
    assert_eq!((run.code, &report["new"]), (1, &2.into()), "{run:?}");
    let failed: Vec<_> =
        report["failed"].as_array().unwrap().iter().map(|f| f["line"].clone()).collect();
    assert_eq!(failed, [4, 5]);
    let service = world.service().await;
    let token = Token::parse_foreign("sk-2-0123456789").unwrap();
    let found = service.find(&token).await.unwrap().unwrap();
    assert_eq!(
        (found.account_id().as_str(), found.key().scopes.to_string()),
        ("acme", "read write".into())
    );
    assert_eq!(found.key().budget, Budget::lifetime(Amount::cents(10)));
    assert_eq!(found.key().metadata.to_string(), r#"{"a":1}"#);
    service.shutdown().await;
    world.fails(&["key", "import", "-"], 2, &["--format csv"]);
}

async fn many_keys_are_imported_in_one_command(world: &World) {
    let record = |n: u32| format!("{},acme,read\n", TokenHash::digest(&format!("token {n}")));
    let csv = (0..2_500).fold("hash,account,scopes\n".to_owned(), |csv, n| csv + &record(n));
    let report = world.json(&["key", "import", &world.file("many.csv", &csv)]);
    assert_eq!((&report["new"], report["keys"].as_array().unwrap().len()), (&2_500.into(), 2_500));
    let listed = world.json(&["key", "list", "--account", "acme"]);
    assert_eq!(listed["keys"].as_array().unwrap().len(), 2_500, "over all pages");
}

/// As the application's own SELECT, or a person with an editor, writes them.
async fn limits_of_requests_are_imported(world: &World) {
    let csv = "token,account,scopes,rate_limit,allowed_cidrs\n\
               sk-1-0123456789,acme,read,\"{\"\"requests\"\": 100, \"\"window_seconds\"\": 60}\",192.0.2.0/24 ::1\n\
               sk-2-0123456789,acme,read,,\n\
               sk-3-0123456789,acme,read,100/1m,\n\
               sk-4-0123456789,acme,read,,192.0.2.1/24\n";
    let file = world.file("keys.csv", csv);
    let run = world.run(&["key", "import", &file, "--json"]);
    let report = run.document();
    assert_eq!((run.code, &report["new"]), (1, &2.into()), "{run:?}");
    let errors: Vec<_> =
        report["failed"].as_array().unwrap().iter().map(|it| &it["error"]).collect();
    let [rate, range] = &errors[..] else { panic!("{run:?}") };
    assert!(rate.as_str().unwrap().starts_with("rate_limit: it is an object such as {"), "{rate}");
    assert!(range.as_str().unwrap().ends_with("the range is 192.0.2.0/24"), "{range}");

    let lines = r#"
{"token": "sk-5-0123456789", "scopes": "", "rate_limit": {"requests": 5, "window_seconds": 1, "in_flight": 2}, "allowed_cidrs": ["10.0.0.0/8"]}
{"token": "sk-6-0123456789", "scopes": "", "rate_limit": null, "allowed_cidrs": []}
"#;
    let import = ["key", "import", "-", "--format", "jsonl", "--account", "acme"];
    assert_eq!(world.run_with_input(&import, lines).code, 0);

    let service = world.service().await;
    let mut found = Vec::new();
    for n in [1, 2, 5, 6] {
        let token = Token::parse_foreign(&format!("sk-{n}-0123456789")).unwrap();
        let key = service.find(&token).await.unwrap().expect("it was imported").key().clone();
        found.push((key.rate_limit, key.allowed_cidrs));
    }
    service.shutdown().await;
    let ranges = |list: &[&str]| Some(Cidrs::parse(list.iter().copied()).unwrap());
    assert_eq!(
        found,
        [
            (Some(RateLimit::per_minute(100)), ranges(&["192.0.2.0/24", "::1"])),
            (None, None),
            (Some(RateLimit::per_second(5).in_flight(2)), ranges(&["10.0.0.0/8"])),
            (None, ranges(&[])), // from nowhere
        ]
    );
}

/// A column that slipped has a token where another value belongs.
async fn no_error_shows_a_value(world: &World) {
    for (name, content) in [
        ("no-header.csv", format!("{TOKEN},acme,read\n{TOKEN},acme,read\n")),
        ("slipped.csv", format!("disabled,account,scopes,hash\n{TOKEN},acme,read,{TOKEN}\n")),
        ("budget.csv", format!("hash,account,scopes,budget\n{TOKEN},acme,read,{TOKEN}\n")),
        ("scopes.csv", format!("token,account,scopes\n{TOKEN},,a {TOKEN}\"b\n")),
        (
            "quoted.jsonl",
            format!(
                "{{\"hash\": \"\", \"account\": \"a\", \"scopes\": \"\", \"disabled\": \"\\\"{TOKEN}\\u202e\"}}\n"
            ),
        ),
        ("fields.csv", format!("hash,account,scopes\n{TOKEN},acme\n")),
        ("text.jsonl", format!("\"{TOKEN}\"\n{{\"token\": {TOKEN}}}\n{TOKEN}\n")),
        ("member.jsonl", format!("{{\"{TOKEN}\": 1, \"scopes\": \"\"}}\n")),
        (
            "kind.jsonl",
            format!(
                "{{\"hash\": \"{TOKEN}\", \"account\": \"a\", \"scopes\": \"\", \"disabled\": \"{TOKEN}\"}}\n"
            ),
        ),
        (
            "both.jsonl",
            format!(
                "{{\"hash\": \"{TOKEN}\", \"token\": \"{TOKEN}\", \"account\": \"a\", \"scopes\": \"\"}}\n"
            ),
        ),
        (
            "rate.jsonl",
            format!(
                "{{\"hash\": \"\", \"account\": \"a\", \"rate_limit\": {{\"{TOKEN}\": 1}}}}\n\
                 {{\"hash\": \"\", \"account\": \"a\", \"rate_limit\": {{\"requests\": \"{TOKEN}\"}}}}\n\
                 {{\"hash\": \"\", \"account\": \"a\", \"rate_limit\": \"{{\\\"requests\\\": \\\"{TOKEN}\\\"}}\"}}\n\
                 {{\"hash\": \"\", \"account\": \"a\", \"rate_limit\": \"{TOKEN}\"}}\n\
                 {{\"hash\": \"\", \"account\": \"a\", \"allowed_cidrs\": [\"{TOKEN}\"]}}\n\
                 {{\"hash\": \"\", \"account\": \"a\", \"allowed_cidrs\": \"::1 {TOKEN}\"}}\n"
            ),
        ),
    ] {
        let run = world.run(&["key", "import", &world.file(name, &content)]);
        assert_eq!(run.code, 1, "{name}: {run:?}");
        assert!(!run.stdout.contains(TOKEN) && !run.stderr.contains(TOKEN), "{name}: {run:?}");
        assert!(run.stderr.contains("correct") || run.stderr.contains("the members"), "{run:?}");
    }
    assert!(world.ok(&["key", "list"]).is_empty());
}

/// Some before the broken lines, some after, and more than are imported at once.
async fn a_broken_line_hides_nothing_of_what_was_imported(world: &World) {
    let record = |n: usize| format!("sk-broken-{n:06},acme,read\n");
    let mut csv = "token,account,scopes\n".to_owned();
    (0..1_200).for_each(|n| csv += &record(n));
    csv += "sk-broken-short,acme\n";
    csv += &record(1_200);
    let run = world.run(&["key", "import", &world.file("broken.csv", &csv), "--json"]);
    assert_eq!(run.code, 1, "{}", run.stderr);
    let report: serde_json::Value =
        serde_json::from_str(run.stdout.lines().next().unwrap_or_default()).unwrap();
    assert_eq!((&report["new"], &report["failed"][0]["line"]), (&1_201.into(), &1_202.into()));
    assert_eq!(world.json(&["key", "list"])["keys"].as_array().unwrap().len(), 1_201);
}

async fn a_file_that_cannot_be_read_says_so(world: &World) {
    world.fails(
        &["key", "import", "/no/such/keys.csv"],
        1,
        &["/no/such/keys.csv", "cannot be read"],
    );
    world.fails(&["key", "import", "keys.txt"], 2, &["--format csv"]);
}
