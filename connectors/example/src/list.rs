//! A list on a server: `GET ?page=N` answers a page of it, `PUT ?name=NAME` sets the value of an item.

use connector_kit::http::{Http, Method, RequestBuilder};
use engine::connector::{Connector as _, Context};
use engine::source::{SourceError, SourceErrorKind};
use serde::Deserialize;

#[derive(Deserialize)]
struct Page {
    items: Vec<Item>,
    next: Option<u64>,
}

/// An item; numbers of its value have 64 bits.
#[derive(Deserialize)]
pub(crate) struct Item {
    pub(crate) name: String,
    pub(crate) value: serde_json::Value,
}

pub(crate) struct List {
    pub(crate) server: Http,
    token: Option<String>,
}

impl List {
    pub(crate) fn new(url: &str, context: &Context) -> Result<Self, SourceError> {
        let server = Http::new(url, "example+", crate::Example.logins(), context)?;
        Ok(Self { server, token: context.settings.get(crate::TOKEN.name).map(str::to_owned) })
    }

    pub(crate) fn request(&self, method: Method, key: &str, value: &str) -> RequestBuilder {
        let request = self.server.request(method).query(&[(key, value)]);
        self.token.iter().fold(request, |request, token| request.bearer_auth(token))
    }

    /// All items, in the order of the server.
    pub(crate) fn items(&self) -> Result<Vec<Item>, SourceError> {
        let (mut items, mut number) = (vec![], 0);
        loop {
            let incomplete = |why| self.server.error(SourceErrorKind::Incomplete, why);
            let body = self.server.ask(self.request(Method::GET, "page", &number.to_string()))?;
            let page: Page = serde_json::from_slice(&body)
                .map_err(|error| incomplete(format!("page {number}: {error}")))?;
            items.extend(page.items);
            match page.next {
                None => return Ok(items),
                Some(next) if next == number + 1 => number = next,
                Some(next) => return Err(incomplete(format!("page {number} is followed by page {next}"))),
            }
        }
    }
}
