//! Several sequences in one training row, whole and never mixed: attention and positions start anew at each.

use std::collections::BTreeMap;

use crate::DataError;

/// How sequences are put into packs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PackingStrategy {
    /// Best-fit decreasing: the longest first, each into the fullest pack that still takes it (Ding et al. 2024,
    /// <https://arxiv.org/abs/2404.10830>).
    #[default]
    BinPack,
    /// In order: a new pack begins when the next sequence does not fit.
    Sequential,
}

/// Packs of sequence indices.
#[derive(Debug, Clone, PartialEq)]
pub struct Packs {
    pub packs: Vec<Vec<usize>>,
    /// Tokens over the packs' capacity, 0 to 1.
    pub efficiency: f64,
}

/// Puts sequences of these lengths into packs of at most `capacity` tokens. Deterministic in the order given; packs are
/// ordered by their first sequence, sequences in a pack by index.
pub fn pack(lengths: &[usize], capacity: usize, strategy: PackingStrategy) -> Result<Packs, DataError> {
    if let Some((index, &length)) = lengths.iter().enumerate().find(|&(_, &length)| length > capacity) {
        return Err(DataError::Packing { index, length, capacity });
    }
    let mut packs = match strategy {
        PackingStrategy::BinPack => best_fit(lengths, capacity),
        PackingStrategy::Sequential => sequential(lengths, capacity),
    };
    packs.iter_mut().for_each(|pack| pack.sort_unstable());
    packs.sort_unstable_by_key(|pack| pack[0]);
    let room = packs.len() * capacity;
    let efficiency = if room == 0 { 1.0 } else { lengths.iter().sum::<usize>() as f64 / room as f64 };
    Ok(Packs { packs, efficiency })
}

fn best_fit(lengths: &[usize], capacity: usize) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    order.sort_by_key(|&index| std::cmp::Reverse(lengths[index])); // stable: equal lengths keep their order
    let mut packs: Vec<Vec<usize>> = Vec::new();
    let mut by_room: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for index in order {
        let length = lengths[index];
        let room = by_room.range(length..).next().map(|(&room, _)| room);
        let (pack, room) = match room {
            Some(room) => {
                let candidates = by_room.get_mut(&room).expect("it was just found");
                let pack = candidates.pop().expect("empty lists are removed");
                if candidates.is_empty() {
                    by_room.remove(&room);
                }
                (pack, room)
            }
            None => {
                packs.push(Vec::new());
                (packs.len() - 1, capacity)
            }
        };
        packs[pack].push(index);
        by_room.entry(room - length).or_default().push(pack);
    }
    packs
}

fn sequential(lengths: &[usize], capacity: usize) -> Vec<Vec<usize>> {
    let mut packs: Vec<Vec<usize>> = Vec::new();
    let mut room = 0;
    for (index, &length) in lengths.iter().enumerate() {
        if packs.is_empty() || length > room {
            packs.push(Vec::new());
            room = capacity;
        }
        packs.last_mut().expect("one was pushed").push(index);
        room -= length;
    }
    packs
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Random, Stream};

    #[test]
    fn best_fit_fills_what_fits() {
        let packs = pack(&[5, 3, 7, 2, 5, 8], 10, PackingStrategy::BinPack).unwrap();
        assert_eq!(packs.packs, [vec![0, 4], vec![1, 2], vec![3, 5]]);
        assert_eq!(packs.efficiency, 1.0);
        let packs = pack(&[5, 3, 7, 2, 5, 8], 10, PackingStrategy::Sequential).unwrap();
        assert_eq!(packs.packs, [vec![0, 1], vec![2, 3], vec![4], vec![5]]);
        assert_eq!(packs.efficiency, 0.75);
    }

    #[test]
    fn every_sequence_is_in_one_pack_and_none_overflows() {
        let mut random = Random::new(1, Stream::Sample);
        for strategy in [PackingStrategy::BinPack, PackingStrategy::Sequential] {
            for count in [0, 1, 7, 500] {
                let lengths: Vec<usize> = (0..count).map(|_| 1 + random.below(64) as usize).collect();
                let packs = pack(&lengths, 64, strategy).unwrap();
                let mut seen: Vec<usize> = packs.packs.concat();
                seen.sort_unstable();
                assert!(seen.into_iter().eq(0..count));
                assert!(packs.packs.iter().all(|p| p.iter().map(|&i| lengths[i]).sum::<usize>() <= 64));
                assert_eq!(packs, pack(&lengths, 64, strategy).unwrap());
            }
        }
    }

    #[test]
    fn a_sequence_longer_than_a_pack_is_an_error() {
        let error = pack(&[3, 11], 10, PackingStrategy::BinPack).unwrap_err();
        assert_eq!(error.to_string(), "packing: sequence 1 has 11 tokens, more than a pack's 10");
    }
}
