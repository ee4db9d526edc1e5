use crossdock_topics::{Batch, Message};

use super::*;

fn built() -> (Bytes, Arc<Block>) {
    let mut builder = Builder::new(7, 0);
    for text in ["one", "two", "three"] {
        let batch = Batch::of(&Message::new(text).with_id(text)).unwrap();
        builder.push(batch.as_bytes(), 1, true);
    }
    builder.finish(Timestamp(42))
}

/// The first and last of the three, stored at 1007 and 1009, for the offsets 5 to 19.
fn with_gaps() -> (Bytes, Arc<Block>) {
    let (_, dense) = built();
    let mut builder = SparseBuilder::new(5);
    for found in dense.iter().filter(|found| found.offset != 8) {
        assert!(builder.has_room(&found));
        let time = if found.offset == 7 { Timestamp(1007) } else { Timestamp(1009) };
        builder.push(&Found { time, ..found });
    }
    builder.finish(20, Timestamp(1050)).unwrap()
}

#[test]
fn a_block_survives_the_disk() {
    let (value, block) = built();
    let read = Block::decode(&value).unwrap();
    assert_eq!((read.range(), read.time(), read.has_ids()), (7..10, Timestamp(42), true));
    assert_eq!(read.find(8).unwrap().record.payload(), "two");
    assert_eq!(block.find(9).unwrap().record.payload(), "three");
    assert!(read.find(10).is_none() && read.find(6).is_none());
    assert_eq!(read.ids().map(|(offset, ..)| offset).collect::<Vec<_>>(), [7, 8, 9]);
}

#[test]
fn a_block_with_gaps_says_where_they_are() {
    let (value, _) = with_gaps();
    let block = Block::decode(&value).unwrap();
    assert_eq!((block.range(), block.count(), block.time()), (5..20, 2, Timestamp(1050)));
    let told = |found: Found| (found.offset, found.time.0, found.record.payload());
    assert_eq!(
        block.iter().map(told).collect::<Vec<_>>(),
        [(7, 1007, "one".into()), (9, 1009, "three".into())]
    );
    assert!(block.find(8).is_none() && block.find(5).is_none() && block.find(19).is_none());
    let from = |offset| Some(block.next(block.seek(offset)?)?.offset);
    assert_eq!([0, 7, 8, 9, 10].map(from), [Some(7), Some(7), Some(9), Some(9), None]);
    let ids: Vec<_> = block.ids().map(|(offset, time, _)| (offset, time.0)).collect();
    assert_eq!(ids, [(7, 1007), (9, 1009)]);
}

#[test]
fn a_block_of_which_nothing_is_left_still_stands_for_its_offsets() {
    let (value, _) = SparseBuilder::new(5).finish(6, Timestamp(1)).unwrap();
    let block = Block::decode(&value).unwrap();
    assert_eq!((block.range(), block.iter().count(), block.seek(5)), (5..6, 0, None));
    assert!(SparseBuilder::new(5).finish(5, Timestamp(1)).is_err());
}

/// A block of these records with a checksum that fits, whatever they are.
fn forged(first: u64, count: u32, records: &[u8]) -> Result<Arc<Block>, Error> {
    let mut builder = Builder::new(first, 0);
    builder.push(records, count, true);
    Block::decode(&builder.finish(Timestamp(42)).0)
}

#[test]
fn a_wrong_block_with_a_right_checksum_is_refused_or_read_as_far_as_it_goes() {
    assert!(forged(u64::MAX, 1, b"records").is_err(), "offsets beyond the last one");
    assert!(forged(7, 0, b"records").is_err(), "no message");
    // A record of two bytes whose fields say that there is a priority, and one that is cut off.
    let block = forged(7, 3, &[2, 0, 0, 0, 4, 0, 9, 0, 0, 0, 1]).unwrap();
    assert_eq!(block.find(7).unwrap().record.to_message(), crossdock_topics::Message::default());
    assert!(block.find(8).is_none() && block.find(9).is_none() && block.ids().next().is_none());
    for (table, count) in [(vec![0; 12], 2), (vec![0; 24], 2), (vec![255; 12], 1)] {
        let mut bytes = [vec![0; HEADER], 9u64.to_le_bytes().to_vec(), table].concat();
        seal(&mut bytes, SPARSE, 5, count, false, Timestamp(0));
        assert!(Block::decode(&bytes.into()).is_err(), "a table cut off, not ascending, beyond the end");
    }
}

#[test]
fn every_flipped_bit_is_seen() {
    for value in [built().0, with_gaps().0] {
        for at in 0..value.len() {
            for bit in 0..8 {
                let mut bytes = value.to_vec();
                bytes[at] ^= 1 << bit;
                assert!(Block::decode(&bytes.into()).is_err(), "byte {at} bit {bit}");
            }
        }
        for length in 0..value.len() {
            assert!(Block::decode(&value.slice(..length)).is_err(), "cut at {length}");
        }
    }
}
