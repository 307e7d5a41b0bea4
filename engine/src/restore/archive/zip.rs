//! Zip, written as a stream: sizes and checksum stand behind each file's data and in the directory at the end. Source:
//! PKWARE, "APPNOTE.TXT" 6.3.10, sections 4.3 to 4.5; modes and times as Info-ZIP has them.

use super::Archive;
use crate::entry::{Entry, Kind};
use flate2::write::DeflateEncoder;
use flate2::{Compression, Crc};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use std::io::{self, Write};

/// Files of this size and more have lengths of 64 bits: below, what deflate adds keeps them under 4 GiB.
const LARGE: u64 = 0xf000_0000;
/// Behind the data follow its checksum and lengths; the name is UTF-8.
const FLAGS: u16 = 1 << 3;
const UTF8: u16 = 1 << 11;
const DEFLATE: u16 = 8;
/// 4.5, for Zip64; made on Unix.
const VERSION: u16 = 45;
const UNIX: u16 = 3 << 8;

/// Counts what goes through it.
struct Counted<'a> {
    out: &'a mut dyn Write,
    count: u64,
}

impl Write for Counted<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let len = self.out.write(bytes)?;
        self.count += len as u64;
        Ok(len)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// What the directory says about a file.
struct Member {
    name: Vec<u8>,
    mode: u32,
    time: i32,
    crc: u32,
    packed: u64,
    size: u64,
    offset: u64,
    large: bool,
}

impl Member {
    fn flags(&self) -> u16 {
        if std::str::from_utf8(&self.name).is_ok() { FLAGS | UTF8 } else { FLAGS }
    }

    /// Info-ZIP's time stamp: seconds since 1970.
    fn time(&self) -> Vec<u8> {
        let mut extra = Bytes::default();
        extra.u16(0x5455).u16(5).u8(1).u32(self.time.cast_unsigned());
        extra.0
    }
}

/// Numbers, the least byte first.
#[derive(Default)]
struct Bytes(Vec<u8>);

impl Bytes {
    fn u8(&mut self, number: u8) -> &mut Self {
        self.0.push(number);
        self
    }
    fn u16(&mut self, number: u16) -> &mut Self {
        self.raw(&number.to_le_bytes())
    }
    fn u32(&mut self, number: u32) -> &mut Self {
        self.raw(&number.to_le_bytes())
    }
    fn u64(&mut self, number: u64) -> &mut Self {
        self.raw(&number.to_le_bytes())
    }
    fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }
}

/// MS-DOS's date and time (section 4.4.6) of seconds since 1970: local, of an even second, from 1980 to 2107, else its
/// first. Readers that do not know the field behind the name show it.
fn dos_time(seconds: i32, zone: &TimeZone) -> (u16, u16) {
    const FIRST: (u16, u16) = (0x21, 0);
    let Ok(stamp) = Timestamp::from_second(seconds.into()) else { return FIRST };
    let local = zone.to_datetime(stamp);
    let [month, day, hour, minute, second] =
        [local.month(), local.day(), local.hour(), local.minute(), local.second()].map(i8::cast_unsigned);
    match u16::try_from(local.year() - 1980) {
        Ok(year) if year < 128 => (
            year << 9 | u16::from(month) << 5 | u16::from(day),
            u16::from(hour) << 11 | u16::from(minute) << 5 | u16::from(second / 2),
        ),
        _ => FIRST,
    }
}

/// A length as 16 bits, the limit for names and attributes.
fn short(len: usize) -> io::Result<u16> {
    u16::try_from(len).map_err(|_| io::Error::other("a name is too long for a zip"))
}

pub(super) struct Zip<'a> {
    /// The writer, while no file is open.
    idle: Option<Counted<'a>>,
    open: Option<(DeflateEncoder<Counted<'a>>, Crc, Member, u64)>,
    members: Vec<Member>,
    zone: TimeZone,
}

impl<'a> Zip<'a> {
    pub(super) fn new(out: &'a mut dyn Write) -> Self {
        Self { idle: Some(Counted { out, count: 0 }), open: None, members: vec![], zone: TimeZone::system() }
    }

    fn out(&mut self) -> io::Result<Counted<'a>> {
        self.idle.take().ok_or_else(|| io::Error::other("a file of the zip has no end"))
    }
}

impl Archive for Zip<'_> {
    fn begin(&mut self, path: &[u8], entry: &Entry, size: u64) -> io::Result<bool> {
        let kind = match entry.kind {
            Kind::File => 0o100_000,
            Kind::Dir => 0o040_000,
            Kind::Symlink => 0o120_000,
            Kind::Fifo | Kind::CharDevice | Kind::BlockDevice | Kind::Socket => return Ok(false),
        };
        let mut name = path.to_vec();
        if entry.kind == Kind::Dir {
            name.push(b'/');
        }
        let mut out = self.out()?;
        let member = Member {
            name,
            mode: kind | entry.mode & 0o7777,
            time: i32::try_from(entry.mtime.seconds).unwrap_or(if entry.mtime.seconds < 0 {
                i32::MIN
            } else {
                i32::MAX
            }),
            crc: 0,
            packed: 0,
            size: 0,
            offset: out.count,
            large: size >= LARGE,
        };
        let mut extra = Bytes::default();
        if member.large {
            extra.u16(1).u16(16).u64(0).u64(0);
        }
        extra.raw(&member.time());
        let mut head = Bytes::default();
        let unknown = if member.large { u32::MAX } else { 0 };
        let (date, time) = dos_time(member.time, &self.zone);
        head.u32(0x0403_4b50).u16(VERSION).u16(member.flags()).u16(DEFLATE).u16(time).u16(date);
        head.u32(0).u32(unknown).u32(unknown).u16(short(member.name.len())?).u16(short(extra.0.len())?);
        head.raw(&member.name).raw(&extra.0);
        out.write_all(&head.0)?;
        let start = out.count;
        self.open = Some((DeflateEncoder::new(out, Compression::default()), Crc::new(), member, start));
        if entry.kind == Kind::Symlink {
            self.data(&entry.target)?;
        }
        Ok(true)
    }

    fn data(&mut self, bytes: &[u8]) -> io::Result<()> {
        let Some((encoder, crc, member, _)) = &mut self.open else { return Ok(()) };
        crc.update(bytes);
        member.size += bytes.len() as u64;
        encoder.write_all(bytes)
    }

    fn end(&mut self) -> io::Result<()> {
        let Some((encoder, crc, mut member, start)) = self.open.take() else { return Ok(()) };
        let mut out = encoder.finish()?;
        member.crc = crc.sum();
        member.packed = out.count - start;
        let mut tail = Bytes::default();
        tail.u32(0x0807_4b50).u32(member.crc);
        let low = |number: u64| {
            u32::try_from(number).map_err(|_| io::Error::other("a file of the zip grew beyond 4 GiB"))
        };
        match member.large {
            true => tail.u64(member.packed).u64(member.size),
            false => tail.u32(low(member.packed)?).u32(low(member.size)?),
        };
        out.write_all(&tail.0)?;
        self.members.push(member);
        self.idle = Some(out);
        Ok(())
    }

    fn finish(&mut self) -> io::Result<()> {
        let mut out = self.out()?;
        let start = out.count;
        for member in &self.members {
            let mut extra = Bytes::default();
            // Always: readers take what is in it where the field itself is full.
            extra.u16(1).u16(24).u64(member.size).u64(member.packed).u64(member.offset).raw(&member.time());
            let mut record = Bytes::default();
            record.u32(0x0201_4b50).u16(UNIX | VERSION).u16(VERSION).u16(member.flags()).u16(DEFLATE);
            let (date, time) = dos_time(member.time, &self.zone);
            record.u16(time).u16(date).u32(member.crc).u32(u32::MAX).u32(u32::MAX);
            record.u16(short(member.name.len())?).u16(short(extra.0.len())?).u16(0).u16(0).u16(0);
            record.u32(member.mode << 16).u32(u32::MAX).raw(&member.name).raw(&extra.0);
            out.write_all(&record.0)?;
        }
        let (count, len) = (self.members.len() as u64, out.count - start);
        let end = out.count;
        let mut tail = Bytes::default();
        tail.u32(0x0606_4b50).u64(44).u16(UNIX | VERSION).u16(VERSION).u32(0).u32(0);
        tail.u64(count).u64(count).u64(len).u64(start);
        tail.u32(0x0706_4b50).u32(0).u64(end).u32(1);
        tail.u32(0x0605_4b50).u16(0).u16(0).u16(u16::MAX).u16(u16::MAX).u32(u32::MAX).u32(u32::MAX).u16(0);
        out.write_all(&tail.0)?;
        out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_ms_dos_are_local() {
        let east = TimeZone::fixed(jiff::tz::offset(2));
        let all = |year: u16, month: u16, day: u16, hour: u16, minute: u16, second: u16| {
            ((year - 1980) * 512 + month * 32 + day, hour * 2048 + minute * 32 + second / 2)
        };
        for (text, expected) in [
            ("2024-05-06T07:08:11Z", all(2024, 5, 6, 9, 8, 10)),
            ("2023-12-31T22:30:00Z", all(2024, 1, 1, 0, 30, 0)),
            ("2038-01-19T03:14:07Z", all(2038, 1, 19, 5, 14, 6)),
            ("1970-01-01T00:00:00Z", all(1980, 1, 1, 0, 0, 0)),
        ] {
            let seconds = text.parse::<Timestamp>().unwrap().as_second();
            assert_eq!(dos_time(i32::try_from(seconds).unwrap(), &east), expected, "{text}");
        }
    }
}
