//! What is usual, as bytes: it takes a week to learn, and a proxy is started anew more often.
//!
//! Numbers are little-endian, in the order of the fields. What cannot be read is nothing: it is learned again.

use super::{Baseline, CLASSES, COUNT, Common, Few, KNOWN, Now, SLOTS, SLOTTED, Track};

/// Another layout has another number.
pub const VERSION: u32 = 1;

/// Reads what was written, in order; `None`: it is not that.
#[derive(Debug)]
pub struct Bytes<'b>(pub &'b [u8]);

impl<'b> Bytes<'b> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*first)
    }

    pub fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    /// A number that counts or measures something.
    fn f32(&mut self) -> Option<f32> {
        self.array().map(f32::from_le_bytes).filter(|n| n.is_finite() && *n >= 0.0)
    }

    fn u64s<const N: usize>(&mut self) -> Option<[u64; N]> {
        let mut all = [0; N];
        for one in &mut all {
            *one = self.u64()?;
        }
        Some(all)
    }

    pub fn text(&mut self) -> Option<&'b str> {
        let length = self.u32()? as usize;
        let (text, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        std::str::from_utf8(text).ok()
    }
}

fn put_all(numbers: &[u64], out: &mut Vec<u8>) {
    numbers.iter().for_each(|n| out.extend_from_slice(&n.to_le_bytes()));
}

/// As [`Bytes::text`] reads it.
pub fn put_text(text: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(&(text.len() as u32).to_le_bytes());
    out.extend_from_slice(text.as_bytes());
}

impl Common {
    pub fn write(&self, out: &mut Vec<u8>) {
        self.0.iter().for_each(|cell| put_all(&[cell.load(std::sync::atomic::Ordering::Relaxed)], out));
    }

    pub fn read(bytes: &mut Bytes<'_>) -> Option<Common> {
        Some(Common(bytes.u64s::<KNOWN>()?.map(Into::into)))
    }
}

impl Track {
    fn write(&self, out: &mut Vec<u8>) {
        let Track { mean, width, seen, there } = self;
        [mean, width, seen, there].iter().for_each(|n| out.extend_from_slice(&n.to_le_bytes()));
    }

    fn read(bytes: &mut Bytes<'_>) -> Option<Track> {
        Some(Track { mean: bytes.f32()?, width: bytes.f32()?, seen: bytes.f32()?, there: bytes.f32()? })
    }

    fn read_all<const N: usize>(bytes: &mut Bytes<'_>) -> Option<[Track; N]> {
        let mut all = [Track::default(); N];
        for one in &mut all {
            *one = Track::read(bytes)?;
        }
        Some(all)
    }
}

impl Few {
    fn write(&self, out: &mut Vec<u8>) {
        put_all(&[self.count as u64], out);
        put_all(&self.forms, out);
    }

    fn read(bytes: &mut Bytes<'_>) -> Option<Few> {
        let count = usize::try_from(bytes.u64()?).ok()?;
        let forms = bytes.u64s()?;
        (count <= forms.len()).then_some(Few { forms, count })
    }
}

impl Baseline {
    pub fn write(&self, out: &mut Vec<u8>) {
        let Baseline { tenant, since, hour, now, ended: _, known, slots, all, errors } = self;
        let Now { amounts, errors: in_hour, next_look, is_told, new, strange } = now;
        put_all(&[u64::from(*tenant), *since, *hour, *next_look, u64::from(*is_told)], out);
        put_all(amounts, out);
        put_all(in_hour, out);
        [new, strange].iter().for_each(|few| few.write(out));
        put_all(known, out);
        slots.as_flattened().iter().chain(all).chain(errors).for_each(|track| track.write(out));
    }

    pub fn read(bytes: &mut Bytes<'_>) -> Option<Baseline> {
        let [tenant, since, hour, next_look, is_told] = bytes.u64s()?;
        let (amounts, in_hour) = (bytes.u64s::<COUNT>()?, bytes.u64s::<CLASSES>()?);
        let (new, strange) = (Few::read(bytes)?, Few::read(bytes)?);
        let known = bytes.u64s()?;
        let mut slots = [[Track::default(); SLOTTED]; SLOTS];
        for slot in &mut slots {
            *slot = Track::read_all(bytes)?;
        }
        let (all, errors) = (Track::read_all(bytes)?, Track::read_all(bytes)?);
        let is_sound = since <= hour && hour < 1 << 24;
        is_sound.then_some(Baseline {
            tenant: u16::try_from(tenant).ok()?,
            since,
            hour,
            now: Now { amounts, errors: in_hour, next_look, is_told: is_told != 0, new, strange },
            ended: [0.0; COUNT],
            known,
            slots,
            all,
            errors,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Ended, WARM_UP};
    use super::*;

    /// Statements of some days, and what is told of them.
    fn replay(baseline: &mut Baseline, common: &Common, hours: std::ops::Range<u64>) -> Vec<String> {
        let mut told = vec![];
        for hour in hours {
            let night = hour % 24 < 6;
            for n in 0..if night { 0 } else { 20 } {
                let ended = Ended { template: n % 7, at: (500_000 + hour) * 3600 + n, rows: 1 + n % 3, bytes: 100, error: None };
                told.extend(baseline.note(&ended, common).map(|unusual| unusual.to_string()));
            }
        }
        told
    }

    #[test]
    fn what_was_kept_goes_on_as_if_nothing_had_been() {
        let (mut one, common) = (Baseline::new(7), Common::default());
        let days = WARM_UP + 7;
        assert_eq!(replay(&mut one, &common, 0..24 * days + 9), Vec::<String>::new());
        let mut kept = vec![];
        common.write(&mut kept);
        one.write(&mut kept);
        assert!(kept.len() < 24 << 10, "{}", kept.len());
        let mut bytes = Bytes(&kept);
        let common_again = Common::read(&mut bytes).expect("it was written");
        let mut again = Baseline::read(&mut bytes).expect("it was written");
        assert!(bytes.0.is_empty());
        let mut written_again = vec![];
        common_again.write(&mut written_again);
        again.write(&mut written_again);
        assert_eq!(kept, written_again);
        // A dump in the night.
        let dump = Ended { template: 99, at: (500_000 + 24 * days + 27) * 3600, rows: 1_000_000, bytes: 1 << 30, error: None };
        let told = |baseline: &mut Baseline, common: &Common| baseline.note(&dump, common).map(|unusual| unusual.to_string());
        let expected = told(&mut one, &common);
        assert!(expected.is_some());
        assert_eq!(told(&mut again, &common_again), expected);
        assert_eq!(told(&mut Baseline::new(7), &Common::default()), None, "who has forgotten all tells nothing");
    }

    #[test]
    fn a_clock_that_was_wrong_once_does_not_blind_it() {
        let (mut one, common) = (Baseline::new(7), Common::default());
        replay(&mut one, &common, 0..24 * (WARM_UP + 7));
        let at = |hour: u64| Ended { template: 1, at: (500_000 + hour) * 3600, rows: 1, bytes: 1, error: None };
        one.note(&at(30_000), &common);
        let hour = 24 * (WARM_UP + 7) + 9;
        assert_eq!(replay(&mut one, &common, hour..hour + 24 * 9), Vec::<String>::new());
        let dump = Ended { rows: 1_000_000, bytes: 1 << 30, ..at(hour + 24 * 9 + 17) };
        assert!(one.note(&dump, &common).is_some());
    }

    #[test]
    fn what_was_not_written_is_not_read() {
        let mut kept = vec![];
        Baseline::new(7).write(&mut kept);
        assert!(Baseline::read(&mut Bytes(&kept)).is_some());
        for end in (0..kept.len()).step_by(97) {
            assert!(Baseline::read(&mut Bytes(&kept[..end])).is_none(), "{end}");
        }
        assert!(Baseline::read(&mut Bytes(&vec![0xff; kept.len()])).is_none());
        assert!(Common::read(&mut Bytes(&[0; 9])).is_none());
    }
}
