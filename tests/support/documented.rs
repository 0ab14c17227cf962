//! The code of README.md and docs/adoption.md, but for spaces. [`is_in`] compares it with them.
#![allow(dead_code, unused_imports)] // each test uses a part

const THIS: &str = include_str!("documented.rs");

/// Fails if the function of this name, which is in a module of this file, is not in the document.
#[track_caller]
pub(crate) fn is_in(document: &str, function: &str) {
    let start =
        THIS.find(&format!("pub(crate) async fn {function}(")).expect("a function of this file");
    let end = THIS[start..].find("\n    }\n").expect("its end");
    let code = squeezed(&THIS[start..start + end + "\n    }".len()]);
    assert!(
        squeezed(document).contains(&code),
        "{function} is not in the document as it is tested"
    );
}

fn squeezed(text: &str) -> String {
    let text: String =
        text.replace("pub(crate) ", "").chars().filter(|c| !c.is_whitespace()).collect();
    text.replace(",)", ")")
}

/// Returns the first block of code of a language below a heading of a document.
pub(crate) fn block(document: &str, heading: &str, language: &str) -> String {
    let (_, below) = document.split_once(&format!("\n{heading}\n")).expect("a heading");
    let (_, code) = below.split_once(&format!("\n```{language}\n")).expect("a block");
    code.split_once("\n```").expect("its end").0.to_owned()
}

#[cfg(all(feature = "postgres", feature = "axum"))]
pub(crate) use with_postgres::{adopt, import};

#[cfg(all(feature = "postgres", feature = "axum"))]
mod with_postgres {
    use agentkey::store::{Adoption, PostgresOptions};
    use agentkey::{
        AgentKeyLayer, AgentKeys, Budget, Imported, KeyImport, PostgresStore, ScopeSet,
    };

    pub(crate) async fn adopt(
        url: &str,
        app: axum::Router,
    ) -> Result<axum::Router, Box<dyn std::error::Error>> {
        // As the npm package has it: without scopes a key may do everything, and without a budget it has no limit.
        let adoption = Adoption::new(ScopeSet::unrestricted(), Budget::unlimited());
        let options = PostgresOptions::new(url).table("sdk_api_keys").adopt(adoption);
        let store = PostgresStore::open(options).await?;
        let keys = AgentKeys::builder().admin_scope("admin".parse()?).build(store)?; // `admin` includes every scope
        Ok(app.layer(AgentKeyLayer::new(&keys)))
    }

    pub(crate) async fn import(
        keys: &AgentKeys,
        pool: &sqlx::PgPool,
        select: &str,
    ) -> Result<usize, Box<dyn std::error::Error>> {
        let select = sqlx::AssertSqlSafe(format!("SELECT row_to_json(r)::text FROM ({select}) r"));
        let (mut rows, mut imports) = (Vec::new(), Vec::new());
        for row in sqlx::query_scalar::<_, String>(select).fetch_all(pool).await? {
            match serde_json::from_str::<KeyImport>(&row) {
                Ok(import) => imports.push(import),
                Err(error) => {
                    println!("not imported: {error}: {row}");
                    continue;
                }
            }
            rows.push(row);
        }
        let mut new = 0;
        for (row, imported) in rows.iter().zip(keys.import(imports).await?) {
            match imported {
                Ok(Imported::New(_)) => new += 1,
                Ok(known) => println!("was there before, as key {}: {row}", known.key()),
                Err(error) => println!("not imported: {error}: {row}"),
            }
        }
        Ok(new)
    }
}

pub(crate) use csv_file::import_csv;

mod csv_file {
    use agentkey::{AgentKeys, KeyImport};

    pub(crate) async fn import_csv(
        keys: &AgentKeys,
        path: &str,
    ) -> Result<(), Box<dyn std::error::Error>> {
        let (mut lines, mut imports) = (Vec::new(), Vec::new());
        for (line, import) in (2..).zip(csv::Reader::from_path(path)?.deserialize::<KeyImport>()) {
            match import {
                Ok(import) => imports.push(import),
                Err(error) => {
                    println!("line {line}: not imported: {error}");
                    continue;
                }
            }
            lines.push(line);
        }
        for (line, imported) in lines.iter().zip(keys.import(imports).await?) {
            println!("line {line}: {imported:?}");
        }
        Ok(())
    }
}
