//! `esker stream mysql://…`: the binary log of a server.

use crate::server::Server;
use crate::stream::follow;
use engine::connector::{Chosen, Context, Following, LiveStream};
use engine::growing::{FollowOptions, Report};
use engine::{Error, Monitor, Repository, Result};

/// The changes of a server.
pub(crate) struct Changes;

impl LiveStream for Changes {
    fn schemes(&self) -> &'static [&'static str] {
        &["mysql", "mariadb"]
    }
    fn open(&self, url: &str, _: &str, _: &Chosen, context: &Context) -> Result<Box<dyn Following>> {
        let shown = engine::source::without_password(url);
        let url =
            engine::source::parsed_url(url).map_err(|error| Error::Invalid(format!("{shown}: {error}")))?;
        let server = Server::new(&url, context)?;
        if server.database.is_some() {
            let why = "the binary log is of all databases; name none in the URL";
            return Err(Error::Invalid(why.into()));
        }
        Ok(Box::new(Followed(server)))
    }
}

struct Followed(Server);

impl Following for Followed {
    fn place(&self) -> String {
        self.0.place()
    }
    fn follow(
        &mut self,
        repo: &Repository,
        options: &FollowOptions,
        monitor: &dyn Monitor,
        report: &mut Report<'_>,
    ) -> Result<()> {
        follow(repo, &self.0, options, monitor, report)
    }
}
