//! Databases that are missing, wrong, or may not be written.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use sqlx::{AssertSqlSafe, Connection};

use crate::postgres;
use crate::world::{Run, World, is_there, program};

async fn execute(url: &str, sql: &str) {
    let mut connection = sqlx::PgConnection::connect(url).await.unwrap();
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
}

/// Every command that opens the database.
const COMMANDS: [&[&str]; 17] = [
    &["key", "create", "--name", "a"],
    &["key", "list"],
    &["key", "show", "1"],
    &["key", "update", "1", "--name", "b"],
    &["key", "disable", "1"],
    &["key", "enable", "1"],
    &["key", "rotate", "1"],
    &["key", "revoke", "1"],
    &["key", "children", "1"],
    &["account", "list"],
    &["account", "set", "acme", "--no-limit", "--create"],
    &["usage"],
    &["entries"],
    &["events"],
    &["adjust", "--key", "1", "--top-up", "1", "--reason", "a"],
    &["prune", "--older-than", "90d", "--yes"],
    &["reconcile"],
];

#[test]
fn no_database_at_all_says_how_to_name_one() {
    let run = Run::of(&program(&["key", "list"]).output().unwrap());
    assert_eq!(run.code, 2);
    assert!(
        run.stderr.contains("`--database PATH|URL`") && run.stderr.contains("AGENTKEY_DATABASE")
    );
    World::at(":memory:").fails(&["migrate"], 2, &["in memory"]);
}

#[test]
fn a_missing_file_is_not_made_by_accident() {
    let world = World::without_tables();
    for command in COMMANDS {
        world.fails(command, 4, &["there is no such file", "`agentkey migrate`"]);
        assert!(!is_there(world.database()), "{command:?}");
    }
    assert_eq!(world.run(&["export", "keys"]).code, 4);
    let sql = world.ok(&["migrate", "--print"]);
    assert!(sql.contains("CREATE TABLE agent_keys") && !is_there(world.database()));
    assert_eq!(world.json(&["migrate"])["was_needed"], true);
    assert_eq!(world.json(&["migrate"])["was_needed"], false);
    assert_eq!(world.ok(&["migrate", "--print"]), "");
    world.ok(&["key", "list"]);
}

#[test]
fn the_file_of_another_program_stays_as_it_is() {
    let world = World::without_tables();
    fs::write(world.database(), "").unwrap();
    world.fails(&["key", "list"], 4, &["no tables of agentkey", "`agentkey migrate`"]);
    fs::write(
        world.database(),
        "a letter, and no database, that is longer than a header of SQLite",
    )
    .unwrap();
    let before = fs::read(world.database()).unwrap();
    for command in [&["key", "list"][..], &["migrate"], &["migrate", "--print"]] {
        world.fails(command, 4, &["not a database", "name the file"]);
    }
    assert_eq!(fs::read(world.database()).unwrap(), before);
    World::at("/no/such/folder/keys.db").fails(&["migrate"], 4, &["there is no directory"]);
    World::at("/tmp").fails(&["key", "list"], 4, &["is a directory"]);
    World::at("mysql://app:s3cret@db/app").fails(&["key", "list"], 4, &["postgres://"]);
    let said = World::at("host=db password=s3cret").fails(&["key", "list"], 4, &["postgres://"]);
    assert!(!said.contains("s3cret"), "{said}");
}

#[test]
fn a_file_that_can_only_be_read_says_what_to_allow() {
    let world = World::sqlite();
    world.create(&["--name", "a"]);
    let (file, folder) = (world.database().to_owned(), world.path(""));
    fs::set_permissions(&file, fs::Permissions::from_mode(0o444)).unwrap();
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o555)).unwrap();
    // Root may write everything, so another user has to try.
    let is_root = fs::OpenOptions::new().append(true).open(&file).is_ok();
    for command in COMMANDS {
        let mut command = match is_root {
            true => {
                let mut setpriv = std::process::Command::new("setpriv");
                setpriv.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
                setpriv.arg(env!("CARGO_BIN_EXE_agentkey")).args(command);
                setpriv
            }
            false => program(command),
        };
        let run = Run::of(&command.env("AGENTKEY_DATABASE", &file).output().unwrap());
        assert_eq!((run.code, run.stdout.as_str()), (4, ""), "{run:?}");
        assert!(run.stderr.contains("Let the process write"), "{run:?}");
    }
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PostgreSQL: ./scripts/test"]
async fn a_database_without_tables_or_without_a_server_says_so() {
    let Some(world) = World::empty_postgres().await else { return };
    for command in COMMANDS {
        world.fails(command, 4, &["not up to date", "`agentkey migrate`"]);
    }
    assert!(world.ok(&["migrate", "--print"]).contains("CREATE TABLE"));
    world.fails(&["key", "list"], 4, &["`agentkey migrate`"]);
    world.ok(&["migrate"]);
    world.ok(&["key", "list"]);

    let missing = world.database().replace("agentkey_test_", "agentkey_gone_");
    World::at(&missing).fails(&["key", "list"], 4, &["does not exist", "`--database`"]);
    let nowhere = World::at("postgres://app:s3cret@127.0.0.1:1/app");
    let said = nowhere.fails(&["key", "list"], 4, &["refused the connection", "127.0.0.1:1"]);
    assert!(!said.contains("s3cret"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PostgreSQL: ./scripts/test"]
async fn a_role_without_rights_is_refused() {
    let Some(world) = World::postgres().await else { return };
    world.create(&["--name", "a"]);
    let role = format!("reader_{}", world.database().rsplit('_').next().unwrap());
    execute(world.database(), &format!("CREATE ROLE {role} LOGIN")).await;
    let reader = World::at(&world.database().replace("://agentkey@", &format!("://{role}@")));
    let before = world.ok(&["export", "keys"]);
    for command in COMMANDS {
        reader.fails(command, 4, &["permission denied", "grant this one the rights"]);
    }
    let grant = format!("GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}");
    execute(world.database(), &grant).await;
    reader.ok(&["key", "list"]);
    reader.ok(&["reconcile"]);
    for command in [0, 3, 4, 6, 7, 10, 15].map(|writes| COMMANDS[writes]) {
        reader.fails(command, 4, &["permission denied", "grant this one the rights"]);
    }
    assert_eq!(world.ok(&["export", "keys"]), before);
    execute(world.database(), &format!("DROP OWNED BY {role}; DROP ROLE {role}")).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PostgreSQL and PgBouncer: ./scripts/test"]
async fn behind_a_pooler_the_flag_is_named_and_works() {
    let Some(server) = postgres::Server::shared() else { return };
    let database = server.database().await;
    let Some(pooler) = postgres::PgBouncer::start(&database, 4) else { return };
    World::at(database.url()).ok(&["migrate"]);
    let world = World::at(pooler.url());
    world.fails(&["key", "list"], 4, &["pooler", "`--transaction-pooling`"]);
    let doctor = world.run(&["doctor"]);
    assert_eq!(doctor.code, 1);
    assert!(doctor.stdout.contains("pooler"), "{doctor:?}");
    world.ok(&["key", "create", "--transaction-pooling", "--name", "pooled"]);
    assert!(world.ok(&["key", "list", "--transaction-pooling"]).contains("pooled"));
    assert_eq!(world.run(&["doctor", "--transaction-pooling"]).code, 0);
}
