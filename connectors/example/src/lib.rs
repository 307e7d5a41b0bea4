//! An example of a connector, explained in docs/adding-a-connector.md: a list of JSON values over HTTP.

use engine::connector::{Connector, Context, Scheme, Setting, Target};
use engine::entry::Time;
use engine::source::{Source, SourceError};

mod list;
mod source;
mod target;

/// A list of JSON values.
pub struct Example;

/// The token that requests carry.
const TOKEN: Setting = Setting::secret(
    "example.token",
    "Token that requests carry",
    Some("ESKER_EXAMPLE_TOKEN_FILE"),
    Some("ESKER_EXAMPLE_TOKEN"),
);

impl Connector for Example {
    fn name(&self) -> &'static str {
        "example"
    }
    fn title(&self) -> &'static str {
        "the example"
    }
    fn schemes(&self) -> &'static [Scheme] {
        &[Scheme {
            name: "example+http",
            form: "example+http://host[:port]/path",
            about: "a list of JSON values over HTTP",
        }]
    }
    fn settings(&self) -> &'static [Setting] {
        &[TOKEN]
    }
    fn logins(&self) -> &'static str {
        "ESKER_EXAMPLE_TOKEN or ESKER_EXAMPLE_TOKEN_FILE"
    }
    fn target(&self) -> Option<&dyn Target> {
        Some(&target::Lists)
    }
    fn target_schemes(&self) -> &'static [&'static str] {
        &["example+http"]
    }
    fn open(&self, url: &str, time: Time, context: &Context) -> Result<Box<dyn Source>, SourceError> {
        Ok(Box::new(source::ListSource::new(list::List::new(url, context)?, time)))
    }
}
