//! `esker restore --to example+http://…`: items into a list on a server.

use crate::list::List;
use connector_kit::entries::{self, Items};
use connector_kit::http::Method;
use engine::connector::choice::common::{DRY_RUN, REPLACE, WAIT_THAW};
use engine::connector::{Choice, Chosen, Context, Origin, RestorePlan, Target, url_of};
use engine::source::SourceError;
use engine::{Monitor, Result, snapshot::Snapshot};
use std::collections::BTreeSet;
use std::ffi::OsStr;

pub(crate) struct Lists;

impl Target for Lists {
    fn title(&self) -> &'static str {
        "the example"
    }
    fn choices(&self) -> &'static [&'static Choice] {
        &[&DRY_RUN, &WAIT_THAW, &REPLACE]
    }
    fn fits(&self, snapshot: &Snapshot) -> bool {
        snapshot.sources.iter().any(|record| record.is_of("example"))
    }
    fn plan<'a>(
        &self,
        from: Origin<'a>,
        to: &OsStr,
        chosen: &Chosen,
        context: &Context,
        _: &dyn Monitor,
    ) -> Result<Box<dyn RestorePlan + 'a>> {
        let list = List::new(url_of(to)?.as_str(), context)?;
        entries::plan(from, "example", list, chosen.has(&REPLACE))
    }
}

impl Items for List {
    fn shown(&self) -> &str {
        &self.server.shown
    }
    fn names(&self) -> Result<BTreeSet<String>, SourceError> {
        Ok(self.items()?.into_iter().map(|item| item.name).collect())
    }
    fn put(&self, name: &str, value: Vec<u8>) -> Result<(), SourceError> {
        self.server.ask(self.request(Method::PUT, "name", name).body(value)).map(drop)
    }
}
