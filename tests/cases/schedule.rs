//! kernels/schedule.cu: the work list covers every (query row, key) pair exactly once, longest first, and is the same for the same input.

use gridpoint_runtime::parameters::{
    AttentionWork, GRIDPOINT_ATTENTION_SPLIT_ROWS, GRIDPOINT_ATTENTION_TILE_ROWS, GRIDPOINT_CHUNK_TOKENS,
    GRIDPOINT_PAGE_TOKENS, GRIDPOINT_SCHEDULE_SHARED_BYTES, GRIDPOINT_SCHEDULE_THREADS, ScheduleParameters, StepHeader,
};

use super::fixture::Random;
use crate::support::{Case, DeviceVec, TestDevice};

const PAGE: usize = GRIDPOINT_PAGE_TOKENS as usize;
const CHUNK: usize = GRIDPOINT_CHUNK_TOKENS as usize;
const TILE_ROWS: usize = GRIDPOINT_ATTENTION_TILE_ROWS as usize;
const SPLIT_ROWS: usize = GRIDPOINT_ATTENTION_SPLIT_ROWS as usize;
const POISON: u32 = u32::MAX;

/// The cases of this kernel.
pub(crate) fn cases() -> Vec<Case> {
    let case = |name, run| Case { name, run };
    vec![
        case("schedule/known_batches", known_batches as fn(&TestDevice)),
        case("schedule/random_batches", random_batches),
        case("schedule/many_requests", many_requests),
        case("schedule/long_sequences", long_sequences),
        case("schedule/too_small_a_list_is_refused", too_small_a_list_is_refused),
    ]
}

/// One request of a step: its new tokens, and its tokens in the cache once they are appended.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Request {
    /// New tokens of this step.
    pub(crate) query: usize,
    /// Tokens in the cache after this step's append.
    pub(crate) cached: usize,
}

/// A step as the attention kernels see it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Batch {
    /// Decodes, then prefills.
    pub(crate) requests: Vec<Request>,
    /// Pages of each request; empty where page tables play no part.
    pub(crate) pages: Vec<Vec<i32>>,
}

impl Batch {
    /// New tokens of all requests.
    pub(crate) fn tokens(&self) -> usize {
        self.requests.iter().map(|request| request.query).sum()
    }

    /// Most pages of any request.
    pub(crate) fn most_pages(&self) -> usize {
        self.pages.iter().map(Vec::len).max().unwrap_or(0)
    }

    /// The step block. Its capacities exceed the real counts by `slack` tokens and requests; everything behind a count is 0xFF. `stored`
    /// tells whether the token in a row has a slot.
    pub(crate) fn step_block(&self, slack: usize, stored: impl Fn(usize) -> bool) -> Vec<u8> {
        let requests = self.requests.len();
        let stride = self.most_pages() + slack;
        let mut positions: Vec<i32> = Vec::new();
        let mut slots: Vec<i32> = Vec::new();
        let mut query_starts = vec![0_i32];
        let mut page_table: Vec<i32> = vec![-1; (requests + slack) * stride];
        for (index, request) in self.requests.iter().enumerate() {
            let pages = self.pages.get(index).map_or(&[][..], Vec::as_slice);
            page_table[index * stride..][..pages.len()].copy_from_slice(pages);
            for position in request.cached.saturating_sub(request.query)..request.cached {
                let slot = pages.get(position / PAGE).map_or(-1, |&page| page * PAGE as i32 + (position % PAGE) as i32);
                slots.push(if stored(slots.len()) { slot } else { -1 });
                positions.push(position as i32);
            }
            query_starts.push(query_starts[index] + request.query as i32);
        }
        let kv_lengths: Vec<i32> = self.requests.iter().map(|request| request.cached as i32).collect();
        let decodes = self.requests.iter().take_while(|request| request.query == 1).count();

        let mut block = vec![0xff_u8; size_of::<StepHeader>().next_multiple_of(16)];
        let mut section = |values: &[i32], capacity: usize| {
            let offset = block.len();
            block.extend_from_slice(bytemuck::cast_slice(values));
            block.resize((offset + capacity.max(values.len()) * size_of::<i32>()).next_multiple_of(16), 0xff);
            offset as u32
        };
        let tokens = self.tokens();
        let header = StepHeader {
            tokens: tokens as u32,
            prefills: (requests - decodes) as u32,
            decodes: decodes as u32,
            token_capacity: (tokens + slack) as u32,
            prefill_capacity: (requests - decodes) as u32,
            decode_capacity: (decodes + slack) as u32,
            token_ids_offset: section(&vec![-1; tokens], tokens + slack),
            positions_offset: section(&positions, tokens + slack),
            slots_offset: section(&slots, tokens + slack),
            query_starts_offset: section(&query_starts, requests + slack + 1),
            kv_lengths_offset: section(&kv_lengths, requests + slack),
            page_table_offset: section(&page_table, 0),
            page_table_stride: stride as u32,
            ..StepHeader::default()
        };
        let bytes = block.len();
        let header = StepHeader { used_bytes: bytes as u32, ..header };
        block[..size_of::<StepHeader>()].copy_from_slice(bytemuck::bytes_of(&header));
        block
    }
}

/// What the host must provide for a batch (the formulas in the kernel's header), with nothing known but its sums.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Capacities {
    /// Items of the list.
    pub(crate) items: usize,
    /// Arrival counters per key-value head.
    pub(crate) counters: usize,
    /// Partials per key-value head.
    pub(crate) partials: usize,
}

impl Capacities {
    /// For `batch` with `group` query heads per key-value head.
    pub(crate) fn of(batch: &Batch, group: usize) -> Self {
        let requests = batch.requests.len();
        let longest = batch.requests.iter().map(|request| request.cached).max().unwrap_or(0);
        let pool: usize = batch.requests.iter().map(|request| request.cached.div_ceil(PAGE)).sum();
        let partials = (requests * longest.div_ceil(CHUNK)).min((pool + 7 * requests) / 8);
        Self { items: batch.tokens() * group / TILE_ROWS + requests + partials, counters: requests, partials }
    }
}

/// A list on the device, with what attention needs beside it.
pub(crate) struct Schedule {
    /// Head of four words, then items of eight.
    pub(crate) list: DeviceVec<u32>,
    /// Arrival counters.
    pub(crate) counters: DeviceVec<u32>,
}

impl Schedule {
    /// Runs the kernel into buffers of exactly `capacities`.
    pub(crate) fn run(
        device: &TestDevice,
        step: &DeviceVec<u8>,
        capacities: Capacities,
        kv_heads: usize,
        group: usize,
    ) -> Self {
        Self::of_tiles(device, step, capacities, kv_heads, group, TILE_ROWS)
    }

    /// As [`Self::run`], with tiles of `tile_rows` query rows.
    pub(crate) fn of_tiles(
        device: &TestDevice,
        step: &DeviceVec<u8>,
        capacities: Capacities,
        kv_heads: usize,
        group: usize,
        tile_rows: usize,
    ) -> Self {
        let list = device.poisoned::<u32>(4 + 8 * capacities.items);
        let counters = device.poisoned::<u32>(capacities.counters * kv_heads);
        let parameters = ScheduleParameters {
            step: step.as_ptr().cast(),
            list: list.as_mut_ptr().cast(),
            counters: counters.as_mut_ptr(),
            capacity: capacities.items as u32,
            counter_capacity: capacities.counters as u32,
            partial_capacity: capacities.partials as u32,
            kv_heads: kv_heads as u32,
            group: group as u32,
            tile_rows: tile_rows as u32,
        };
        device
            .launch("schedule_attention", 1, GRIDPOINT_SCHEDULE_THREADS, GRIDPOINT_SCHEDULE_SHARED_BYTES, &parameters)
            .expect("schedule_attention");
        Self { list, counters }
    }
}

fn request(query: usize, cached: usize) -> Request {
    Request { query, cached }
}

fn batch(requests: &[(usize, usize)]) -> Batch {
    Batch { requests: requests.iter().map(|&(query, cached)| request(query, cached)).collect(), pages: Vec::new() }
}

/// Tokens that query row `row` sees.
fn limit(request: Request, row: usize, group: usize) -> usize {
    request.cached - request.query + row / group + 1
}

/// Pages that an item walks.
fn pages(item: &AttentionWork, request: Request, group: usize) -> usize {
    let last_row = (item.first_row as usize + TILE_ROWS).min(request.query * group) - 1;
    let end = limit(request, last_row, group).min((item.first_chunk + item.chunk_count) as usize * CHUNK);
    (end - item.first_chunk as usize * CHUNK).div_ceil(PAGE)
}

/// Runs a batch twice and checks everything that the header promises; returns the number of items.
fn check(device: &TestDevice, batch: &Batch, kv_heads: usize, group: usize, slack: usize) -> usize {
    let what = format!("{} requests, group {group}", batch.requests.len());
    let step = device.upload(&batch.step_block(slack, |_| true));
    let capacities = Capacities::of(batch, group);
    let schedule = Schedule::run(device, &step, capacities, kv_heads, group);
    let words = device.download(&schedule.list);
    assert!(
        words == device.download(&Schedule::run(device, &step, capacities, kv_heads, group).list),
        "{what}: two runs differ"
    );

    let count = words[0] as usize;
    assert!(count <= capacities.items && words[1] == 0, "{what}: {count} items, head {:?}", &words[..4]);
    let items: &[AttentionWork] = bytemuck::cast_slice(&words[4..4 + 8 * count]);
    assert!(words[4 + 8 * count..].iter().all(|&word| word == POISON), "{what}: written behind the list");

    // covered[request][tile or 0][chunk].
    let mut covered: Vec<Vec<Vec<u32>>> = batch
        .requests
        .iter()
        .map(|r| vec![vec![0; r.cached.div_ceil(CHUNK)]; (r.query * group).div_ceil(TILE_ROWS)])
        .collect();
    let mut partial_owner = vec![None; capacities.partials];
    let mut counter_owner = vec![None; capacities.counters];
    for (index, item) in items.iter().enumerate() {
        let owner = item.request as usize;
        assert!(
            owner < batch.requests.len() && (item.first_row as usize).is_multiple_of(TILE_ROWS),
            "{what}: item {index} is {item:?}"
        );
        for chunk in item.first_chunk..item.first_chunk + item.chunk_count {
            covered[owner][item.first_row as usize / TILE_ROWS][chunk as usize] += 1;
        }
        let split = batch.requests[owner].query * group <= SPLIT_ROWS;
        let parts = if split { batch.requests[owner].cached.div_ceil(CHUNK) } else { 1 };
        assert_eq!(item.part_count as usize, parts, "{what}: parts of item {index}, {item:?}");
        assert!(
            !split || (item.chunk_count == 1 && item.part == if parts > 1 { item.first_chunk } else { 0 }),
            "{what}: item {index} is {item:?}"
        );
        if parts > 1 {
            let partial = &mut partial_owner[(item.first_partial + item.part) as usize];
            assert!(partial.is_none(), "{what}: items {partial:?} and {index} share a partial");
            *partial = Some(index);
            let counter = counter_owner[item.counter as usize].get_or_insert(owner);
            assert_eq!(*counter, owner, "{what}: requests share counter {}", item.counter);
        }
    }
    for (index, (&request, tiles)) in batch.requests.iter().zip(&covered).enumerate() {
        for row in 0..request.query * group {
            for (chunk, &times) in tiles[row / TILE_ROWS].iter().enumerate() {
                let needed = chunk * CHUNK < limit(request, row, group);
                assert!(
                    times <= 1 && (times == 1 || !needed),
                    "{what}: request {index}, row {row}, chunk {chunk} is walked {times} times"
                );
            }
        }
    }
    let is_tile = |item: &AttentionWork| batch.requests[item.request as usize].query * group > SPLIT_ROWS;
    assert!(items.iter().is_sorted_by_key(|item| !is_tile(item)), "{what}: a decode-like item stands before a tile");
    let tiles = items.iter().filter(|item| is_tile(item)).count();
    assert_eq!(words[2] as usize, tiles, "{what}: the head's number of tiles");
    for pair in items.windows(2).filter(|pair| is_tile(&pair[0]) == is_tile(&pair[1])) {
        let cost = |item: &AttentionWork| pages(item, batch.requests[item.request as usize], group);
        let place = |item: &AttentionWork| (item.request, item.first_row, item.first_chunk);
        let (before, after) = (cost(&pair[0]), cost(&pair[1]));
        // Classes above 64 pages are 1/32 of their size wide.
        let same_class = before >= 64 && after >= 64 && after < before + before / 32 + 1;
        assert!(after <= before || same_class, "{what}: {after} pages follow {before}");
        let one_window = batch.requests.len() <= 1024;
        assert!(
            before != after || before >= 64 || !one_window || place(&pair[0]) < place(&pair[1]),
            "{what}: {:?} stands before {:?}",
            pair[0],
            pair[1]
        );
    }
    let counters = device.download(&schedule.counters);
    let used = counter_owner.iter().filter(|owner| owner.is_some()).count();
    assert!(counter_owner[..used].iter().all(Option::is_some), "{what}: counters in use have gaps");
    for (index, &counter) in counters.iter().enumerate() {
        let expected = if index < used * kv_heads { 0 } else { POISON };
        assert_eq!(counter, expected, "{what}: counter {index}, {used} in use for each of {kv_heads} heads");
    }
    count
}

fn known_batches(device: &TestDevice) {
    let items = |requests: &[(usize, usize)], group| check(device, &batch(requests), 2, group, 3);
    assert_eq!(items(&[], 1), 0);
    assert_eq!(items(&[(1, 1)], 1), 1);
    assert_eq!(items(&[(1, 512)], 4), 1);
    assert_eq!(items(&[(1, 513)], 4), 2);
    assert_eq!(items(&[(1, 1300), (1, 64), (1, 512)], 16), 5);
    assert_eq!(items(&[(5, 1300)], 3), 3);
    assert_eq!(items(&[(6, 1300)], 3), 1);
    assert_eq!(items(&[(16, 16)], 1), 1);
    assert_eq!(items(&[(17, 2000)], 1), 1);
    assert_eq!(items(&[(64, 64), (65, 65), (1000, 1000)], 1), 1 + 2 + 16);
    assert_eq!(items(&[(1, 700), (0, 0), (1, 1), (0, 900), (130, 650)], 7), 2 + 1 + 15);
}

fn random_batches(device: &TestDevice) {
    let mut random = Random(11);
    for _ in 0..24 {
        let group = [1, 2, 3, 4, 5, 7, 8, 16][random.below(8)];
        let mut requests = Vec::new();
        for _ in 0..random.below(40) {
            requests.push(match random.below(8) {
                0 => request(0, 0),
                1 => request(0, random.below(900)),
                2..=5 => request(1, 1 + random.below(2200)),
                6 => {
                    let query = 1 + random.below(16);
                    request(query, query + random.below(1500))
                }
                _ => {
                    let query = 1 + random.below(300);
                    request(query, query + random.below(2) * random.below(1500))
                }
            });
        }
        check(device, &Batch { requests, pages: Vec::new() }, 1 + random.below(3), group, random.below(5));
    }
}

fn many_requests(device: &TestDevice) {
    let mut random = Random(12);
    for count in [255, 1023, 1024, 1025, 2500] {
        let requests =
            (0..count).map(|i| if i % 7 == 3 { request(0, 0) } else { request(1, 1 + random.below(1100)) }).collect();
        check(device, &Batch { requests, pages: Vec::new() }, 1, 4, 1);
    }
}

fn long_sequences(device: &TestDevice) {
    check(device, &batch(&[(1, 131_072), (1, 100_000), (900, 40_000), (1, 3), (2048, 131_072)]), 1, 4, 0);
}

fn too_small_a_list_is_refused(device: &TestDevice) {
    let batch = batch(&[(1, 1300), (1, 600), (40, 40)]);
    let step = device.upload(&batch.step_block(0, |_| true));
    let exact = Capacities { items: 3 + 2 + 3, counters: 2, partials: 5 };
    let head = |capacities| {
        let words = device.download(&Schedule::run(device, &step, capacities, 1, 4).list);
        let items_are_untouched = words[4..].iter().all(|&word| word == POISON);
        ([words[0], words[1]], items_are_untouched)
    };
    assert_eq!(head(exact), ([8, 0], false));
    for short in [
        Capacities { items: exact.items - 1, ..exact },
        Capacities { counters: exact.counters - 1, ..exact },
        Capacities { partials: exact.partials - 1, ..exact },
    ] {
        assert_eq!(head(short), ([0, 1], true), "{short:?} is less than {exact:?}");
    }
}
