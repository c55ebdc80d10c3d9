//! Reads that were not sent yet, by urgency.

use std::collections::VecDeque;

use super::super::drive::{Read, Urgency};

/// A read, and what who queued it knows it by.
#[derive(Debug)]
pub struct Item {
    pub read: Read,
    pub tag: u32,
}

/// Reads of one ticket that were queued one after the other. They are looked for as one.
#[derive(Debug)]
struct Group {
    ticket: u64,
    items: VecDeque<Item>,
}

/// Three queues, the most urgent one served first.
#[derive(Debug, Default)]
pub struct Queue {
    by_urgency: [VecDeque<Group>; Urgency::ALL.len()],
    len: usize,
}

impl Queue {
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn push(&mut self, item: Item) {
        self.len += 1;
        let queue = &mut self.by_urgency[item.read.urgency as usize];
        match queue.back_mut() {
            Some(group) if group.ticket == item.read.ticket => group.items.push_back(item),
            _ => queue.push_back(Group { ticket: item.read.ticket, items: [item].into() }),
        }
    }

    /// That of the read which is next.
    pub fn urgency(&self) -> Option<Urgency> {
        let has = |urgency: &Urgency| !self.by_urgency[*urgency as usize].is_empty();
        if self.is_empty() { None } else { Urgency::ALL.into_iter().rev().find(has) }
    }

    pub fn pop(&mut self) -> Option<Item> {
        let queue = &mut self.by_urgency[self.urgency()? as usize];
        let group = queue.front_mut()?;
        let item = group.items.pop_front()?;
        if group.items.is_empty() {
            queue.pop_front();
        }
        self.len -= 1;
        Some(item)
    }

    /// Takes out all reads of a ticket, the most urgent first.
    pub fn take(&mut self, ticket: u64) -> Vec<Item> {
        let mut taken = Vec::new();
        for queue in self.by_urgency.iter_mut().rev() {
            if queue.iter().any(|group| group.ticket == ticket) {
                queue.retain_mut(|group| {
                    let ours = group.ticket == ticket;
                    taken.extend(
                        ours.then(|| std::mem::take(&mut group.items)).into_iter().flatten(),
                    );
                    !ours
                });
            }
        }
        self.len -= taken.len();
        taken
    }

    pub fn hurry(&mut self, ticket: u64, urgency: Urgency) {
        let other = |other: &Urgency| *other != urgency;
        for from in Urgency::ALL.into_iter().rev().filter(other) {
            let (ours, rest) = std::mem::take(&mut self.by_urgency[from as usize])
                .into_iter()
                .partition(|group: &Group| group.ticket == ticket);
            self.by_urgency[from as usize] = rest;
            let ours: VecDeque<Group> = ours;
            for mut item in ours.into_iter().flat_map(|group| group.items) {
                self.len -= 1;
                item.read.urgency = urgency;
                self.push(item);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::arena::Arena;
    use super::*;

    fn queue(reads: &[(u64, Urgency)]) -> Queue {
        let arena = Arena::reserve(1 << 12).unwrap();
        let mut queue = Queue::default();
        for (tag, &(ticket, urgency)) in reads.iter().enumerate() {
            let into = arena.take(64, 64).unwrap();
            let read = Read { ticket, file: 0, offset: 0, into, sum: None, urgency };
            queue.push(Item { read, tag: tag as u32 });
        }
        queue
    }

    fn tags(mut queue: Queue) -> Vec<u32> {
        let mut tags = Vec::new();
        while let Some(item) = queue.pop() {
            tags.push(item.tag);
            assert_eq!(queue.is_empty(), queue.urgency().is_none());
        }
        assert_eq!(queue.len(), 0);
        tags
    }

    use Urgency::{Demand, Forecast, Warm};

    #[test]
    fn the_most_urgent_is_first_and_then_the_oldest() {
        let reads = [(1, Warm), (1, Warm), (2, Demand), (3, Forecast), (2, Demand), (1, Demand)];
        assert_eq!(tags(queue(&reads)), [2, 4, 5, 3, 0, 1]);
        assert!(tags(Queue::default()).is_empty());
    }

    #[test]
    fn a_ticket_is_hurried_whole_and_behind_those_before_it() {
        let reads = [(1, Warm), (2, Demand), (1, Forecast), (3, Warm), (1, Warm)];
        let mut hurried = queue(&reads);
        hurried.hurry(1, Demand);
        assert_eq!((hurried.len(), hurried.urgency()), (5, Some(Demand)));
        assert_eq!(tags(hurried), [1, 2, 0, 4, 3]);
        // Less urgent too; and what is not there or has it already stays.
        let mut slowed = queue(&reads);
        slowed.hurry(2, Warm);
        slowed.hurry(9, Demand);
        slowed.hurry(3, Warm);
        assert_eq!(slowed.urgency(), Some(Forecast));
        assert_eq!(tags(slowed), [2, 0, 3, 4, 1]);
    }

    #[test]
    fn a_ticket_is_taken_whole() {
        let reads = [(1, Warm), (2, Demand), (1, Forecast), (3, Warm), (1, Warm)];
        let mut queue = queue(&reads);
        let taken: Vec<u32> = queue.take(1).into_iter().map(|item| item.tag).collect();
        assert_eq!((taken, queue.len()), (vec![2, 0, 4], 2));
        assert!(queue.take(1).is_empty());
        assert_eq!(tags(queue), [1, 3]);
    }
}
