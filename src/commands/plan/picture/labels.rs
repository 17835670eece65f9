//! Where labels of points may stand without hiding one another.

/// A rectangle in pixels: left, top, right, bottom.
pub(super) type Rectangle = [i32; 4];

/// What is taken, within bounds.
#[derive(Debug)]
pub(super) struct Labels {
    bounds: Rectangle,
    taken: Vec<Rectangle>,
}

/// A place for a label: its left end and the middle of its height.
pub(super) type Place = (i32, i32);

impl Labels {
    pub(super) fn new(bounds: Rectangle) -> Self {
        Self { bounds, taken: Vec::new() }
    }

    /// Keeps labels away from a point.
    pub(super) fn keep_clear(&mut self, (x, y): (i32, i32), radius: i32) {
        self.taken.push([x - radius, y - radius, x + radius, y + radius]);
    }

    /// Keeps labels away from a line.
    pub(super) fn keep_clear_of_line(&mut self, from: (i32, i32), to: (i32, i32)) {
        let steps = ((to.0 - from.0).abs().max((to.1 - from.1).abs()) / 6).max(1);
        for step in 0..=steps {
            let at = |from: i32, to: i32| from + (to - from) * step / steps;
            self.keep_clear((at(from.0, to.0), at(from.1, to.1)), 2);
        }
    }

    /// The nearest free place beside a point, which is then taken. Where none is free, the one that hides the least.
    pub(super) fn place(&mut self, (x, y): (i32, i32), width: i32, height: i32) -> Place {
        let (mut best, mut best_hidden) = (None, i64::MAX);
        for distance in [10, 18, 28, 40, 54] {
            let above = y - distance - height / 2;
            let below = y + distance + height / 2;
            let (right, left) = (x + distance, x - distance - width);
            let candidates = [
                (right, y),
                (left, y),
                (x - width / 2, above),
                (x - width / 2, below),
                (x + distance / 2, above),
                (x + distance / 2, below),
                (x - distance / 2 - width, above),
                (x - distance / 2 - width, below),
            ];
            for place in candidates {
                let label = rectangle(place, width, height);
                let hidden = self.hidden(label);
                if hidden < best_hidden {
                    (best, best_hidden) = (Some(place), hidden);
                }
            }
            if best_hidden == 0 {
                break;
            }
        }
        let place = best.unwrap_or((x + 10, y));
        self.taken.push(rectangle(place, width, height));
        place
    }

    /// Pixels that a label would share with what is taken, and with what is out of bounds.
    fn hidden(&self, label: Rectangle) -> i64 {
        let shared: i64 = self.taken.iter().map(|taken| area(intersection(*taken, label))).sum();
        let inside = area(intersection(self.bounds, label));
        shared + 4 * (area(label) - inside)
    }
}

fn rectangle((left, middle): Place, width: i32, height: i32) -> Rectangle {
    [left, middle - height / 2, left + width, middle + height / 2]
}

fn intersection(a: Rectangle, b: Rectangle) -> Rectangle {
    [a[0].max(b[0]), a[1].max(b[1]), a[2].min(b[2]), a[3].min(b[3])]
}

fn area([left, top, right, bottom]: Rectangle) -> i64 {
    i64::from((right - left).max(0)) * i64::from((bottom - top).max(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_stay_apart_and_within_bounds() {
        let mut labels = Labels::new([0, 0, 200, 100]);
        for x in [20, 24, 190] {
            labels.keep_clear((x, 50), 4);
        }
        let placed: Vec<Rectangle> =
            [20, 24, 190].into_iter().map(|x| rectangle(labels.place((x, 50), 40, 12), 40, 12)).collect();
        for (index, label) in placed.iter().enumerate() {
            assert_eq!(intersection(*label, [0, 0, 200, 100]), *label, "{placed:?}");
            assert!(placed[..index].iter().all(|other| area(intersection(*other, *label)) == 0), "{placed:?}");
        }
    }
}
