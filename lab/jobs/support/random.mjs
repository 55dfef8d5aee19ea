/** A small generator with a seed, so that what failed can be repeated (xorshift32). */
export function generator(seed) {
  let state = seed | 0 || 1;
  const next = (bound) => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) % bound;
  };
  /** A copy of a list in another order. */
  const shuffle = (list) => {
    const result = [...list];
    for (let at = result.length - 1; at > 0; at -= 1) {
      const other = next(at + 1);
      [result[at], result[other]] = [result[other], result[at]];
    }
    return result;
  };
  return {
    /** A whole number from 0 on, below `bound`. */
    next,
    /** One of a list. */
    of: (list) => list[next(list.length)],
    chance: (percent) => next(100) < percent,
    shuffle,
  };
}
