//! How the items of HEAD's lists lie in leaves.

use super::body::Body;
use super::columns::RootColumns;
use super::leaf::{Item, Whole};
use super::{Condemned, PackRef, Root, SegmentRef, Session};
use crate::format::{Decoder, Encoder, Malformed};
use crate::id::{ObjectId, PackId, SessionId};
use std::borrow::Cow;

/// Most bytes of a root's columns.
const MAX_COLUMNS: usize = 1024;

/// Bytes in hex.
pub(super) mod hex {
    use crate::id::{from_hex, to_hex};
    use bytes::Bytes;
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    pub(in crate::head) fn serialize<S: Serializer>(bytes: &Bytes, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&to_hex(bytes))
    }

    pub(in crate::head) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Bytes, D::Error> {
        let text = String::deserialize(deserializer)?;
        from_hex(&text).map(Bytes::from).ok_or_else(|| D::Error::custom("columns are hex"))
    }
}

impl Item for Root {
    const KIND: u8 = 1;
    const SHARE: usize = 1;

    fn encode(&self, out: &mut Encoder) {
        out.var(self.kind.as_bytes()).raw(self.id.as_bytes()).raw(self.hash.as_bytes());
        out.u32(self.epoch).u8(u8::from(self.renewed.is_some()));
        if let Some(again) = &self.renewed {
            out.raw(again.as_bytes());
        }
        out.var(&self.columns);
    }

    fn decode(decoder: &mut Decoder<'_>, whole: &Whole<'_>, place: u32) -> Result<Self, Malformed> {
        let kind = std::str::from_utf8(decoder.var(64)?).map_err(|_| decoder.malformed("kind of a root"))?;
        // Most are of this kind: they need no room for it.
        let kind = match kind {
            Self::SNAPSHOT => Cow::Borrowed(Self::SNAPSHOT),
            other => Cow::Owned(other.to_owned()),
        };
        let (id, hash) = (ObjectId(decoder.array()?), ObjectId(decoder.array()?));
        let epoch = decoder.u32()?;
        let renewed = match decoder.u8()? {
            0 => None,
            1 => Some(ObjectId(decoder.array()?)),
            _ => return Err(decoder.malformed("flags of a root")),
        };
        let columns = whole.part(decoder.var(MAX_COLUMNS)?);
        Ok(Self { kind, id, hash, epoch, renewed, columns, record: whole.body(place) })
    }

    fn body(&self) -> Body {
        self.record.clone()
    }

    fn summary(items: &[Self], columns: &dyn RootColumns) -> Vec<u8> {
        columns.summary(&mut items.iter().filter(|root| root.is_snapshot()).map(|root| &*root.columns))
    }
}

impl Item for SegmentRef {
    const KIND: u8 = 2;
    const SHARE: usize = 2;

    fn encode(&self, out: &mut Encoder) {
        out.raw(self.id.as_bytes())
            .raw(self.hash.as_bytes())
            .u32(self.packs)
            .u32(self.chunks)
            .u32(self.epoch);
    }

    fn decode(decoder: &mut Decoder<'_>, _: &Whole<'_>, _: u32) -> Result<Self, Malformed> {
        let (id, hash) = (ObjectId(decoder.array()?), ObjectId(decoder.array()?));
        Ok(Self { id, hash, packs: decoder.u32()?, chunks: decoder.u32()?, epoch: decoder.u32()? })
    }
}

impl Item for Session {
    const KIND: u8 = 3;
    const SHARE: usize = 4;

    /// In JSON, as in HEAD: fields of later versions stay, and there are never many.
    fn encode(&self, out: &mut Encoder) {
        out.var(&serde_json::to_vec(self).expect("a struct of plain fields"));
    }

    fn decode(decoder: &mut Decoder<'_>, _: &Whole<'_>, _: u32) -> Result<Self, Malformed> {
        let json = decoder.var(1 << 20)?;
        serde_json::from_slice(json).map_err(|_| decoder.malformed("session"))
    }
}

impl Item for Condemned {
    const KIND: u8 = 4;
    const SHARE: usize = 8;

    fn encode(&self, out: &mut Encoder) {
        out.raw(self.session.as_bytes()).raw(self.id.as_bytes()).u64(self.since);
    }

    fn decode(decoder: &mut Decoder<'_>, _: &Whole<'_>, _: u32) -> Result<Self, Malformed> {
        let (session, id) = (SessionId(decoder.array()?), PackId(decoder.array()?));
        Ok(Self { session, id, since: decoder.u64()? })
    }
}

impl Item for PackRef {
    const KIND: u8 = 5;
    const SHARE: usize = 8;

    fn encode(&self, out: &mut Encoder) {
        out.raw(self.session.as_bytes()).raw(self.id.as_bytes());
    }

    fn decode(decoder: &mut Decoder<'_>, _: &Whole<'_>, _: u32) -> Result<Self, Malformed> {
        Ok(Self { session: SessionId(decoder.array()?), id: PackId(decoder.array()?) })
    }
}

impl Item for ObjectId {
    const KIND: u8 = 6;
    const SHARE: usize = 8;

    fn encode(&self, out: &mut Encoder) {
        out.raw(self.as_bytes());
    }

    fn decode(decoder: &mut Decoder<'_>, _: &Whole<'_>, _: u32) -> Result<Self, Malformed> {
        Ok(Self(decoder.array()?))
    }
}

impl Item for SessionId {
    const KIND: u8 = 7;
    const SHARE: usize = 8;

    fn encode(&self, out: &mut Encoder) {
        out.raw(self.as_bytes());
    }

    fn decode(decoder: &mut Decoder<'_>, _: &Whole<'_>, _: u32) -> Result<Self, Malformed> {
        Ok(Self(decoder.array()?))
    }
}
