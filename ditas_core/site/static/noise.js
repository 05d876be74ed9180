// The noise of a seed, number by number as torch.randn gives it on a CPU: the picture of a class
// and a seed here is the one that Python draws.

/** MT19937 (Matsumoto & Nishimura, 1998), seeded with one number. */
export function twister(seed) {
  const state = new Uint32Array(624);
  state[0] = seed >>> 0;
  for (let i = 1; i < 624; i++) {
    const last = state[i - 1] ^ (state[i - 1] >>> 30);
    state[i] = Math.imul(last, 1812433253) + i;
  }
  let at = 624;
  return () => {
    if (at === 624) {
      for (let i = 0; i < 624; i++) {
        const y = (state[i] & 0x80000000) | (state[(i + 1) % 624] & 0x7fffffff);
        state[i] = state[(i + 397) % 624] ^ (y >>> 1) ^ (y & 1 ? 0x9908b0df : 0);
      }
      at = 0;
    }
    let y = state[at++];
    y ^= y >>> 11;
    y ^= (y << 7) & 0x9d2c5680;
    y ^= (y << 15) & 0xefc60000;
    return (y ^ (y >>> 18)) >>> 0;
  };
}

/** Box and Muller's transform of 16 uniform numbers at a time, in place, as torch orders them. */
function normal16(values, from) {
  for (let j = from; j < from + 8; j++) {
    const radius = Math.sqrt(-2 * Math.log(Math.fround(1 - values[j])));
    const angle = 2 * Math.PI * values[j + 8];
    values[j] = radius * Math.cos(angle);
    values[j + 8] = radius * Math.sin(angle);
  }
}

/** Standard normal numbers, at least 16 of them. */
export function randn(seed, count) {
  if (count < 16) throw new RangeError(`noise: expected at least 16 numbers, got ${count}`);
  const random = twister(seed), values = new Float32Array(count);
  const uniform = () => (random() & 0xffffff) / 0x1000000;
  for (let i = 0; i < count; i++) values[i] = uniform();
  for (let i = 0; i + 16 <= count; i += 16) normal16(values, i);
  if (count % 16) {
    for (let i = count - 16; i < count; i++) values[i] = uniform();
    normal16(values, count - 16);
  }
  return values;
}
