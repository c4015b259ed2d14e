// The recurrence of mase/dataflow/schedule.py, firing by firing. Compiled once and kept; see compiled.py.
//
// Times do not depend on the order in which actors are run, so each runs as far as it can, and one that waits for a
// queue is run again when that queue has moved. After many firings it lets the others run: what lies in the queues
// stays in the cache. Equal firings in a row are done together.
#include <algorithm>
#include <cstdint>
#include <deque>
#include <vector>

namespace {

constexpr int64_t Unbounded = int64_t(1) << 32;
constexpr int Turn = 1 << 10;  // firings of an actor in a row

struct Ring {  // times in order, of which the oldest leave
  std::vector<int64_t> slots = std::vector<int64_t>(16);
  int64_t* times = slots.data();
  size_t mask = 15, head = 0, tail = 0;
  Ring() = default;
  Ring(const Ring&) = delete;
  size_t size() const { return tail - head; }
  int64_t at(size_t ahead) const { return times[(head + ahead) & mask]; }
  void pop() { head++; }
  void push(int64_t time) {
    if (tail - head > mask) grow();
    times[tail++ & mask] = time;
  }
  void grow() {
    std::vector<int64_t> wider(2 * slots.size());
    for (size_t i = 0; i < size(); i++) wider[i] = at(i);
    tail = size();
    head = 0;
    slots.swap(wider);
    times = slots.data();
    mask = slots.size() - 1;
  }
};

struct Queue {
  int64_t depth = 0, free = 0;   // slots, and those of them that have not been used yet
  int32_t source = -1, sink = -1;  // actors that sleep until a slot or a token comes
  Ring visible, returned;
};

struct Act {
  int32_t action, end;
  int64_t latency;
  int32_t ahead;  // actions of the same firing that do the same before this one
};

// A kind of firings. Most are simple: no port leads outside, and each action is done once at most.
struct Kind {
  int64_t dwell = 0, latency = 0;
  bool simple = true;
  Queue *take = nullptr, *free = nullptr, *acquire = nullptr, *publish = nullptr;  // of a simple one
  const Act *begin = nullptr, *end = nullptr;
};

struct Actor {
  const uint16_t* kinds;  // of the runs of equal firings of a tensor
  const int32_t* lengths;
  int64_t runs, run = 0, done = 0, now = 0, tensors = 0;
  int32_t waits = -1;
  bool slot = false, awake = false, live = true;
};

enum Action { Take, Free, Acquire, Publish, Enter, Leave };

// A network: per actor, the runs of equal firings of a tensor, with their kind and length; ``starts``: per kind, where
// its actions begin (one more at the end); ``actions``: what is done; ``ends``: to which queue, or to which outside port;
// ``latencies``: of what is published.
struct Program {
  int32_t actors;
  const int64_t* runs;
  const uint16_t* const* kinds;
  const int32_t* const* lengths;
  const int32_t* offsets;
  const int64_t* dwells;
  const int32_t *starts, *actions, *ends;
  const int64_t* latencies;
  int32_t queues;
};

struct Network {
  std::vector<Queue> queue;
  std::vector<Actor> actor;
  std::vector<Act> acts;
  std::vector<Kind> kind;
  std::vector<size_t> offset;  // of the kinds of an actor
  std::deque<int32_t> ready;
  std::vector<std::vector<int64_t>> taken, freed;  // times by queue, where asked for
  int64_t first = -1;
  int64_t* entered = nullptr;
  int64_t* const* left = nullptr;
  std::vector<int64_t> gone;  // tokens of each output

  // Of two actors that are not both live, no queue between them counts.
  Network(const Program& p, const int64_t* depths, bool used, const uint8_t* lives = nullptr, const uint8_t* counts = nullptr)
      : queue(size_t(p.queues)) {
    taken.resize(used ? queue.size() : 0);
    freed.resize(taken.size());
    for (size_t q = 0; q < queue.size(); q++) queue[q].depth = queue[q].free = used ? Unbounded : depths[q];
    for (int32_t a = 0; a < p.actors; a++) {
      actor.push_back(Actor{p.kinds[a], p.lengths[a], p.runs[a]});
      actor.back().live = !lives || lives[a];
      offset.push_back(size_t(p.offsets[a]));
    }
    const size_t all = size_t(p.offsets[p.actors]);
    acts.reserve(size_t(p.starts[all]));
    kind.resize(all);
    for (size_t k = 0; k < all; k++) {
      Kind& it = kind[k];
      it.dwell = p.dwells[k];
      it.begin = it.end = acts.data() + acts.size();
      it.simple = !used;
      for (int32_t i = p.starts[k]; i < p.starts[k + 1]; i++) {
        const int32_t action = p.actions[i], end = p.ends[i];
        if (action <= Publish && counts && !counts[end]) continue;
        int32_t ahead = 0;
        for (const Act* act = it.begin; act < it.end; act++) ahead += act->action == action && act->end == end;
        acts.push_back(Act{action, end, p.latencies[i], ahead});
        it.end++;
        if (action > Publish) {
          it.simple = false;
          continue;
        }
        Queue*& place = action == Take ? it.take : action == Free ? it.free : action == Acquire ? it.acquire : it.publish;
        it.simple &= !place;
        place = &queue[size_t(end)];
        if (action == Publish) it.latency = p.latencies[i];
      }
    }
  }

  void wake(int32_t& sleeper) {
    if (sleeper < 0) return;
    if (!actor[size_t(sleeper)].awake) {
      actor[size_t(sleeper)].awake = true;
      ready.push_back(sleeper);
    }
    sleeper = -1;
  }

  void sleep(int32_t a, Queue& q, bool slot) {
    actor[size_t(a)].waits = int32_t(&q - queue.data());
    actor[size_t(a)].slot = slot;
    (slot ? q.source : q.sink) = a;
  }

  // Fires a simple kind up to ``most`` times, as often as it can without waiting for another actor; returns how often.
  int64_t simply(int32_t a, const Kind& k, int64_t most, int64_t& at) {
    int64_t count = most;
    if (k.take) {
      count = std::min(count, int64_t(k.take->visible.size()));
      if (!count) return sleep(a, *k.take, false), 0;
    }
    const bool waits = k.acquire && k.acquire->depth < Unbounded;
    if (waits) {
      count = std::min(count, k.acquire->free + int64_t(k.acquire->returned.size()));
      if (!count) return sleep(a, *k.acquire, true), 0;
    }
    const bool frees = k.free && k.free->depth < Unbounded;
    int64_t now = at;
    for (int64_t i = 0; i < count; i++) {
      if (k.take) {
        now = std::max(now, k.take->visible.at(0));
        k.take->visible.pop();
      }
      if (waits) {
        if (k.acquire->free) {
          k.acquire->free--;
        } else {
          now = std::max(now, k.acquire->returned.at(0));
          k.acquire->returned.pop();
        }
      }
      if (frees) k.free->returned.push(now + 1);
      if (k.publish) k.publish->visible.push(now + k.latency);
      now += k.dwell;
    }
    at = now;
    if (k.free) wake(k.free->source);
    if (k.publish) wake(k.publish->sink);
    return count;
  }

  bool fires(int32_t a, const Kind& k, int64_t& at) {  // any kind, once; tells whether it did
    int64_t now = at;
    for (const Act* act = k.begin; act < k.end; act++) {
      if (act->action == Take) {
        Queue& q = queue[size_t(act->end)];
        if (size_t(act->ahead) >= q.visible.size()) return sleep(a, q, false), false;
        now = std::max(now, q.visible.at(size_t(act->ahead)));
      } else if (act->action == Acquire) {
        Queue& q = queue[size_t(act->end)];
        if (act->ahead < q.free) continue;
        const size_t place = size_t(act->ahead - q.free);
        if (place >= q.returned.size()) return sleep(a, q, true), false;
        now = std::max(now, q.returned.at(place));
      }
    }
    const bool used = !taken.empty();
    for (const Act* act = k.begin; act < k.end; act++) {
      const size_t end = size_t(act->end);
      switch (act->action) {
        case Take: queue[end].visible.pop(); break;
        case Enter:
          if (first < 0 || now < first) first = now;
          if (entered) entered[end]++;
          break;
        case Free: {
          Queue& q = queue[end];
          if (used) freed[end].push_back(now + 1);
          if (q.depth < Unbounded) q.returned.push(now + 1);
          wake(q.source);
          break;
        }
        case Acquire: {
          Queue& q = queue[end];
          if (used) taken[end].push_back(now);
          if (q.depth >= Unbounded) break;
          if (q.free) q.free--;
          else q.returned.pop();
          break;
        }
        case Publish: {
          Queue& q = queue[end];
          q.visible.push(now + act->latency);
          wake(q.sink);
          break;
        }
        default:
          if (left) left[end][gone[end]++] = now + act->latency;
      }
    }
    at = now + k.dwell;
    return true;
  }

  // Runs all live actors until each has finished so many tensors, or none can move; tells whether all have.
  bool advance(int64_t goal) {
    for (size_t a = 0; a < actor.size(); a++)
      if (actor[a].live) {
        actor[a].awake = true;
        ready.push_back(int32_t(a));
      }
    while (!ready.empty()) {
      const int32_t a = ready.front();
      ready.pop_front();
      turn(a, goal);
    }
    bool all = true;
    for (const Actor& it : actor) all &= it.tensors >= goal || !it.live;
    return all;
  }

  void turn(int32_t a, int64_t goal) {
    Actor& it = actor[size_t(a)];
    it.awake = false;
    it.waits = -1;
    const Kind* mine = kind.data() + offset[size_t(a)];
    for (int64_t left_over = Turn; it.tensors < goal;) {
      if (left_over <= 0) {
        it.awake = true;
        ready.push_back(a);
        return;
      }
      const Kind& k = mine[it.kinds[it.run]];
      const int64_t most = it.lengths[it.run] - it.done;
      const int64_t count = k.simple ? simply(a, k, std::min(most, left_over), it.now) : fires(a, k, it.now);
      if (!count) return;
      left_over -= count;
      it.done += count;
      if (count < most) continue;
      it.done = 0;
      if (++it.run == it.runs) {
        it.run = 0;
        it.tensors++;
      }
    }
  }
};

// What decides all that follows: the times of actors and queues, from the latest one on.
struct State {
  std::vector<int64_t> values;
  int64_t base = 0;

  bool of(const Network& network) {
    size_t total = network.actor.size(), most = 64;
    for (const Queue& queue : network.queue) total += queue.visible.size() + queue.returned.size();
    for (const Actor& actor : network.actor)
      for (int64_t run = 0; run < actor.runs; run++) most += size_t(actor.lengths[run]);
    if (total > 4 * most) return false;
    values.clear();
    base = 0;
    for (const Actor& actor : network.actor) base = std::max(base, actor.now);
    for (const Actor& actor : network.actor) values.push_back(actor.now - base);
    for (const Queue& queue : network.queue) {
      values.push_back(queue.free);
      for (const Ring* ring : {&queue.visible, &queue.returned}) {
        values.push_back(int64_t(ring->size()));
        for (size_t i = 0; i < ring->size(); i++) values.push_back(ring->at(i) - base);
      }
    }
    return true;
  }
};

}  // namespace

// Runs all actors until each has finished so many tensors, or none can move. Where the state after a tensor is that
// after the tensor before, later, all that follows repeats, and nothing more is run.
//
// left: per outside output, the times of its tokens (room for all); first: the first firing that takes from outside.
// entered: per outside input, the tokens that were taken. finished, waits, slots: per actor, tensors finished, the queue
// that it waits for (-1: none), and whether for a slot. lag: cycles from one tensor to the next where all repeats, or -1.
// used: where not null, per queue the slots that are in use at once; queues are then not bounded.
extern "C" int mase_run(int32_t actors, const int64_t* runs, const uint16_t* const* kinds,
                        const int32_t* const* lengths, const int32_t* offsets, const int64_t* dwells, const int32_t* starts, const int32_t* actions, const int32_t* ends,
                        const int64_t* latencies, int32_t queues, const int64_t* depths, int64_t tensors, int32_t inputs,
                        int32_t outputs, int64_t* const* left, int64_t* first, int64_t* entered, int64_t* finished,
                        int32_t* waits, int32_t* slots, int64_t* lag, int64_t* used) {
  const Program program{actors, runs, kinds, lengths, offsets, dwells, starts, actions, ends, latencies, queues};
  Network it(program, depths, used != nullptr);
  it.entered = entered;
  it.left = left;
  it.gone.assign(size_t(outputs), 0);
  *lag = -1;
  State before, after;
  bool known = false;  // whether ``before`` is the state after the tensor before
  for (int64_t goal = 1; goal <= tensors; goal++) {  // tensor by tensor: queues stay short
    if (!it.advance(goal)) {
      if (goal < tensors) goal = tensors - 1;  // whatever can still fire does
      continue;
    }
    if (used || goal == tensors) continue;
    const bool found = after.of(it);
    if (known && found && before.values == after.values) {
      *lag = after.base - before.base;
      for (size_t out = 0; out < it.gone.size(); out++) {
        const int64_t each = it.gone[out] / goal;
        for (int64_t i = it.gone[out]; i < each * tensors; i++) left[out][i] = left[out][i - each] + *lag;
      }
      for (int32_t in = 0; in < inputs; in++) entered[in] = entered[in] / goal * tensors;
      for (Actor& actor : it.actor) actor.tensors = tensors;
      break;
    }
    std::swap(before, after);
    known = found;
  }
  *first = it.first;
  bool whole = true;
  for (size_t a = 0; a < it.actor.size(); a++) {
    finished[a] = it.actor[a].tensors;
    waits[a] = it.actor[a].waits;
    slots[a] = it.actor[a].slot;
    whole &= it.actor[a].tensors >= tensors;
  }
  for (size_t q = 0; q < it.taken.size(); q++) {
    const std::vector<int64_t>&taken = it.taken[q], &freed = it.freed[q];
    size_t d = 1;
    for (size_t i = 0; i < taken.size(); i++)
      while (d <= i && (i - d >= freed.size() || freed[i - d] > taken[i])) d++;
    used[q] = int64_t(d);
  }
  return whole ? 0 : 1;
}

// Runs so many tensors more from a time of rest, when every actor is between two tensors and all slots are back.
//
// lives: which actors run; counts: which queues lie between two of them, the others are not there. times: when each actor
// may fire again, then when each slot of each bounded queue came back, in order; those of the next time of rest take their
// place. Returns 1 where there is none, because actors wait for each other for ever or keep slots.
extern "C" int mase_step(int32_t actors, const int64_t* runs, const uint16_t* const* kinds,
                         const int32_t* const* lengths, const int32_t* offsets, const int64_t* dwells,
                         const int32_t* starts, const int32_t* actions, const int32_t* ends, const int64_t* latencies,
                         int32_t queues, const int64_t* depths, int64_t tensors, const uint8_t* lives,
                         const uint8_t* counts, int64_t* times) {
  const Program program{actors, runs, kinds, lengths, offsets, dwells, starts, actions, ends, latencies, queues};
  Network it(program, depths, false, lives, counts);
  const int64_t* from = times;
  for (Actor& actor : it.actor) actor.now = *from++;
  for (Queue& queue : it.queue) {
    if (queue.depth >= Unbounded) continue;
    queue.free = 0;
    for (int64_t i = 0; i < queue.depth; i++) queue.returned.push(*from++);
  }
  for (int64_t goal = 1; goal <= tensors; goal++)
    if (!it.advance(goal)) return 1;
  for (const Queue& queue : it.queue)
    if (queue.visible.size() || (queue.depth < Unbounded && queue.returned.size() != size_t(queue.depth))) return 1;
  for (const Actor& actor : it.actor) *times++ = actor.now;
  for (const Queue& queue : it.queue)
    for (size_t i = 0; i < queue.returned.size(); i++) *times++ = queue.returned.at(i);
  return 0;
}
