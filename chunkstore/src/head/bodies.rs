//! Reading the bodies of many items, one after the other: those of a leaf come from one stream as long as they are asked for
//! in order, so that they are never in memory together.

use super::body::{Bodies, Body};
use super::texts::Texts;
use crate::{Error, Result};
use bytes::Bytes;
use std::sync::Arc;

/// Reads bodies; for whoever reads those of many items, and keeps few.
#[derive(Default)]
pub struct BodyReader {
    /// A list has few leaves.
    open: Vec<OpenBodies>,
    /// The one of these that was read last.
    last: usize,
}

/// How far the bodies of a leaf were read.
struct OpenBodies {
    bodies: Arc<Bodies>,
    reading: Reading,
}

enum Reading {
    /// Their object, of which nothing was read.
    Fetched(Bytes),
    /// The number of the next one.
    Next(u32, Texts),
    /// Somebody went back: all are kept.
    Kept,
    /// There is no object.
    Nowhere,
    /// Why none can be read any more.
    Damaged(String),
}

impl BodyReader {
    /// Reads the object that holds a body, so that [`BodyReader::read`] needs nothing that others may remove meanwhile. Returns
    /// whether there is such an object, or the body itself, and it is sound.
    ///
    /// # Errors
    ///
    /// The store fails.
    pub fn fetch(&mut self, body: &Body) -> Result<bool> {
        match body {
            Body::None => Ok(false),
            Body::Here(_) => Ok(true),
            Body::There(bodies, _) => {
                let open = self.open(bodies)?;
                Ok(!matches!(open.reading, Reading::Nowhere | Reading::Damaged(_)))
            }
        }
    }

    /// The bytes of a body, as [`Body::read`].
    ///
    /// # Errors
    ///
    /// The object that holds it cannot be read.
    pub fn read(&mut self, body: &Body) -> Result<Option<Bytes>> {
        match body {
            Body::There(bodies, place) if bodies.kept().is_none() => self.open(bodies)?.read(*place),
            _ => body.read(),
        }
    }

    fn open(&mut self, bodies: &Arc<Bodies>) -> Result<&mut OpenBodies> {
        let is_it = |open: &OpenBodies| Arc::ptr_eq(&open.bodies, bodies);
        if !self.open.get(self.last).is_some_and(is_it) {
            self.last = match self.open.iter().position(is_it) {
                Some(at) => at,
                None => {
                    let reading = match bodies.object() {
                        Ok(object) => object.map_or(Reading::Nowhere, Reading::Fetched),
                        Err(error) if error.is_damage() => Reading::Damaged(why(&error)),
                        Err(error) => return Err(error),
                    };
                    self.open.push(OpenBodies { bodies: Arc::clone(bodies), reading });
                    self.open.len() - 1
                }
            };
        }
        Ok(&mut self.open[self.last])
    }
}

impl OpenBodies {
    fn read(&mut self, place: u32) -> Result<Option<Bytes>> {
        let read = self.read_on(place);
        if let Err(error) = &read
            && error.is_damage()
        {
            self.reading = Reading::Damaged(why(error));
        }
        read
    }

    fn read_on(&mut self, place: u32) -> Result<Option<Bytes>> {
        if let Reading::Fetched(object) = &self.reading {
            let texts = Texts::open(object).map_err(|error| self.bodies.damaged(error))?;
            self.reading = Reading::Next(0, texts);
        }
        match &mut self.reading {
            Reading::Next(next, texts) if *next <= place => {
                let skipped = (place - *next) as usize;
                *next = place.saturating_add(1);
                // There may be fewer of them than items.
                texts
                    .nth(skipped)
                    .transpose()
                    .map(Option::flatten)
                    .map_err(|error| self.bodies.damaged(error))
            }
            Reading::Nowhere => Ok(None),
            Reading::Damaged(why) => Err(self.bodies.damaged(why)),
            _ => {
                self.reading = Reading::Kept;
                Ok(self.bodies.texts()?.get(place as usize).cloned().flatten())
            }
        }
    }
}

/// What is wrong with the object, without its name.
fn why(error: &Error) -> String {
    match error {
        Error::Corrupt { why, .. } => why.clone(),
        error => error.to_string(),
    }
}
