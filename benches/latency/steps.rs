//! What is timed.

use agentkey::{AgentKeys, Token};
use axum::Router;
use axum::body::Body;
use http::Request;
use http_body_util::BodyExt;
use tower::ServiceExt;

use crate::client::{Connection, requests};
use crate::database::Database;
use crate::support::{Result, service};

/// How many keys there are from the one used up to the one without a parent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    One,
    Four,
    Eight,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    Select,
    SelectAndUpdate,
    Find(Depth),
    Read(Depth),
    Pay(Depth),
    Add,
    Hold,
    HttpBare,
    HttpRead,
    HttpPay,
}

impl Step {
    pub const ALL: [Self; 16] = [
        Self::Select,
        Self::SelectAndUpdate,
        Self::Find(Depth::One),
        Self::Find(Depth::Four),
        Self::Find(Depth::Eight),
        Self::Read(Depth::One),
        Self::Read(Depth::Four),
        Self::Read(Depth::Eight),
        Self::Pay(Depth::One),
        Self::Pay(Depth::Four),
        Self::Pay(Depth::Eight),
        Self::Add,
        Self::Hold,
        Self::HttpBare,
        Self::HttpRead,
        Self::HttpPay,
    ];

    pub fn name(self) -> String {
        match self {
            Self::Select => "SELECT".to_owned(),
            Self::SelectAndUpdate => "SELECT, UPDATE".to_owned(),
            Self::Find(depth) => format!("handle: find, depth {}", depth.keys()),
            Self::Read(depth) => format!("service: authenticate + scope, depth {}", depth.keys()),
            Self::Pay(depth) => format!("service: authenticate + `pay`, depth {}", depth.keys()),
            Self::Add => "service: authenticate + `add`, posted at the end".to_owned(),
            Self::Hold => "service: authenticate + hold + settle".to_owned(),
            Self::HttpBare => "HTTP: bare axum".to_owned(),
            Self::HttpRead => "HTTP: authenticate + scope".to_owned(),
            Self::HttpPay => "HTTP: authenticate + `pay`".to_owned(),
        }
    }

    /// What it is compared with.
    pub fn plain(self) -> Option<Self> {
        match self {
            Self::Find(_) | Self::Read(_) | Self::HttpRead => Some(Self::Select),
            Self::Pay(_) | Self::Add | Self::Hold | Self::HttpPay => Some(Self::SelectAndUpdate),
            Self::Select | Self::SelectAndUpdate | Self::HttpBare => None,
        }
    }

    pub fn has_bar(self) -> bool {
        matches!(
            self,
            Self::Find(Depth::One) | Self::Read(Depth::One) | Self::Pay(Depth::One) | Self::Add
        )
    }
}

impl Depth {
    const ALL: [Self; 3] = [Self::One, Self::Four, Self::Eight];

    const fn keys(self) -> usize {
        match self {
            Self::One => 1,
            Self::Four => 4,
            Self::Eight => 8,
        }
    }
}

/// All that steps are taken on.
pub struct Subject {
    database: Database,
    row: i64,
    keys: AgentKeys,
    tokens: Vec<String>,
    app: Router,
    bare: Line,
    read: Line,
    pay: Line,
}

/// A connection, and what is sent on it.
struct Line {
    connection: Connection,
    request: Vec<u8>,
}

impl Subject {
    pub async fn new(database: Database, keys: &AgentKeys) -> Result<Self> {
        let mut tokens = Vec::new();
        for depth in Depth::ALL {
            tokens.push(service::make_lineage(keys, depth.keys()).await?);
        }
        let app = service::keyed(keys);
        let addr = service::serve(app.clone()).await?;
        let line = async |addr, path, tokens: &[String]| -> Result<Line> {
            Ok(Line {
                connection: Connection::open(addr).await?,
                request: requests(path, tokens)[0].clone(),
            })
        };
        Ok(Self {
            bare: line(service::serve(service::bare()).await?, "/bare", &[]).await?,
            read: line(addr, "/read", &tokens).await?,
            pay: line(addr, "/pay", &tokens).await?,
            database,
            row: 0,
            keys: keys.clone(),
            tokens,
            app,
        })
    }

    pub async fn take(&mut self, step: Step) -> Result<()> {
        self.row += 1;
        match step {
            Step::Select => self.database.select(self.row).await,
            Step::SelectAndUpdate => {
                self.database.select(self.row).await?;
                self.database.update(self.row).await
            }
            Step::Find(depth) => self.find(depth).await,
            Step::Read(depth) => self.serve("/read", depth).await,
            Step::Pay(depth) => self.serve("/pay", depth).await,
            Step::Add => self.serve("/add", Depth::One).await,
            Step::Hold => self.serve("/hold", Depth::One).await,
            Step::HttpBare => self.bare.ask().await,
            Step::HttpRead => self.read.ask().await,
            Step::HttpPay => self.pay.ask().await,
        }
    }

    fn token(&self, depth: Depth) -> &str {
        &self.tokens[depth as usize]
    }

    async fn find(&self, depth: Depth) -> Result<()> {
        let found = self.keys.find(&Token::parse(self.token(depth))?).await?;
        let lineage = found.ok_or("a key that is not found")?;
        lineage.check_active()?;
        assert_eq!(lineage.depth(), depth.keys(), "the whole lineage");
        Ok(())
    }

    async fn serve(&self, path: &str, depth: Depth) -> Result<()> {
        let bearer = format!("Bearer {}", self.token(depth));
        let request = Request::get(path).header("authorization", bearer).body(Body::empty())?;
        let response = self.app.clone().oneshot(request).await?;
        if !response.status().is_success() {
            return Err(format!("{path}: {}", response.status()).into());
        }
        response.into_body().collect().await?;
        Ok(())
    }
}

impl Line {
    async fn ask(&mut self) -> Result<()> {
        Ok(self.connection.ask(&self.request).await?)
    }
}
