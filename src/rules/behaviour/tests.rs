//! What an operator would notice.

use super::*;

const DAY: u64 = 86_400;
/// A Monday.
const MONDAY: u64 = 1_767_571_200;

/// A login of a shop: by day two statements a minute, some at night, fewer on weekends; forty forms, the last ones rarely.
struct Shop {
    baseline: Baseline,
    common: Common,
    random: u64,
    version: u64,
}

impl Shop {
    fn new(tenant: u64) -> Shop {
        Shop { baseline: Baseline::new(tenant), common: Common::default(), random: tenant, version: 0 }
    }

    fn below(&mut self, n: u64) -> u64 {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.random >> 33) % n
    }

    fn note(&mut self, template: u64, at: u64, rows: u64) -> Option<Unusual> {
        self.baseline.note(&Ended { template, at, rows, bytes: rows * 100, error: None }, &self.common)
    }

    /// What is told on that day while `also` runs beside the usual: (second of the day) to (form, rows, how often in half a minute).
    fn day(&mut self, day: u64, also: impl Fn(u64) -> Option<(u64, u64, u64)>) -> Vec<Unusual> {
        let mut told = Vec::new();
        for second in (0..DAY).step_by(30) {
            let at = MONDAY + day * DAY + second;
            let is_busy = (7 * 3600..22 * 3600).contains(&second) && day % 7 < 5;
            if is_busy || self.below(10) == 0 {
                let form = self.below(40) * self.below(40) / 40;
                let rows = 1 + self.below(1 + form);
                told.extend(self.note(1000 * self.version + form, at, rows));
            }
            let (form, rows, times) = also(second).unwrap_or_default();
            (0..times).for_each(|_| told.extend(self.note(form, at, rows)));
        }
        told
    }

    fn days(&mut self, days: std::ops::Range<u64>) -> usize {
        days.map(|day| self.day(day, |_| None).len()).sum()
    }
}

/// At noon.
fn dump(second: u64) -> Option<(u64, u64, u64)> {
    (second == DAY / 2).then_some((3, 200_000, 1))
}

#[test]
fn four_usual_weeks_have_nothing_to_tell() {
    assert_eq!((1..=5).map(|tenant| Shop::new(tenant).days(0..28)).sum::<usize>(), 0);
}

#[test]
fn a_dump_is_told_at_once_and_once_for_its_hour_and_is_not_learned() {
    let mut shop = Shop::new(1);
    shop.days(0..14);
    let told = shop.day(14, dump);
    assert_eq!(told.len(), 1, "{told:?}");
    let Unusual { hour, signal, seen, usual, bits } = told[0];
    assert_eq!((hour, signal, seen), (MONDAY + 14 * DAY + DAY / 2, Signal::Largest, 200_000));
    assert!(usual < 100 && bits > LIMIT, "{}", told[0]);
    assert!(told[0].to_string().starts_with("200000 rows in one answer, usual are "));
    for day in 15..25 {
        assert_eq!(shop.day(day, dump).len(), 1, "day {day}");
    }
}

#[test]
fn nothing_is_told_in_the_warm_up() {
    let mut shop = Shop::new(1);
    assert!((0..6).all(|day| shop.day(day, dump).is_empty()));
    let mut late = Shop::new(2);
    (0..5).for_each(|day| _ = late.note(1, MONDAY + day * 2 * DAY, 1));
    assert_eq!(late.note(1, MONDAY + 10 * DAY, 1_000_000), None, "it has hardly been seen");
}

#[test]
fn paging_and_many_new_forms_are_told() {
    let mut shop = Shop::new(1);
    shop.days(0..14);
    assert_eq!(shop.day(14, |second| (40_000..42_000).contains(&second).then_some((3, 25, 20)))[0].signal, Signal::Rows);
    let probing = |second| (60_000..60_600).contains(&second).then_some((second, 5, 1));
    assert_eq!(shop.day(15, probing)[0].signal, Signal::New);
}

#[test]
fn a_ramp_that_doubles_each_day_is_told() {
    let mut shop = Shop::new(1);
    shop.days(0..14);
    // It begins with half of what is usual in an hour.
    let told = (0..12).find(|n| !shop.day(14 + n, |second| (second == DAY / 2).then_some((3, 400 << n, 1))).is_empty());
    assert!(told.is_some_and(|n| n <= 6), "{told:?}");
}

#[test]
fn a_deploy_is_told_at_most_once_and_by_few() {
    let mut shops: Vec<Shop> = (1..=8).map(Shop::new).collect();
    let mut told = vec![0; shops.len()];
    let mut common = Common::default();
    for day in 0..18 {
        for (shop, told) in shops.iter_mut().zip(&mut told) {
            // They are tenants of one principal.
            std::mem::swap(&mut common, &mut shop.common);
            shop.version = day / 14;
            *told += shop.day(day, |_| None).len();
            std::mem::swap(&mut common, &mut shop.common);
        }
    }
    assert!(told.iter().all(|n| *n <= 1) && told.iter().sum::<usize>() <= 2, "{told:?}");
    let mut alone = Shop::new(1);
    alone.days(0..14);
    alone.version = 1;
    assert!(alone.days(14..28) <= 1);
}

#[test]
fn who_grows_for_good_is_usual_again_after_some_weeks() {
    let mut shop = Shop::new(1);
    shop.days(0..14);
    let grown = |second: u64| second.is_multiple_of(30).then_some((3, 20, 5));
    assert!((14..21).any(|day| !shop.day(day, grown).is_empty()));
    (21..56).for_each(|day| _ = shop.day(day, grown));
    assert_eq!((56..63).map(|day| shop.day(day, grown).len()).sum::<usize>(), 0);
}

#[test]
fn memory_is_constant_and_clocks_may_jump() {
    assert!(size_of::<Baseline>() <= 13 * 1024 + 512 && size_of::<Common>() == 8 * 1024);
    fn is_send<T: Send>() {}
    is_send::<Baseline>();
    let mut shop = Shop::new(1);
    shop.days(0..9);
    for at in [0, u64::from(u32::MAX) * 100, 5, MONDAY] {
        _ = shop.note(1, at, u64::MAX / 100);
    }
}

#[test]
fn classes_of_errors() {
    assert_eq!(class_of(b"42601"), class_of(b"42P01"));
    assert!(class_of(b"42601") != class_of(b"40001") && class_of(b"58030") == 0 && class_of(b"") == 0);
}
