// The transport: one clock for all lanes, in seconds of the engine's clock.

const SPEEDS = [50, 20, 5, 1, 1 / 2, 1 / 5, 1 / 10, 1 / 20, 1 / 50];
const LONG_RACE = 30; // seconds
const GOOD_REPLAY = 4; // seconds of a replay: the default speed is the one that comes nearest
const LONGEST_FRAME = 0.1; // seconds; a tab that was in the background continues where it was

class Scrubber {
  // on: { seek(time, playing): draw this time; pause(): the replay has stopped }
  constructor(root, on) {
    this.root = root;
    this.on = on;
    this.part = (key) => root.querySelector(`[data-${key}]`);
    Object.assign(this, { time: 0, duration: 0, moments: [], blocks: [], playing: false, wanted: null });
    const { speed, range } = this;
    for (const each of SPEEDS) speed.append(new Option(speedName(each), String(each)));
    for (const key of ["play", "back", "forward", "previous", "next"]) {
      this.part(key).addEventListener("click", () => this[key]());
    }
    speed.addEventListener("change", () => this.#labels());
    range.addEventListener("input", () => {
      this.#halt();
      this.#soon(Number(range.value) / 1e6);
    });
    range.addEventListener("change", () => this.on.pause());
    this.set([], []);
  }

  get speed() {
    return this.part("speed");
  }

  get range() {
    return this.part("range");
  }

  get rate() {
    return Number(this.speed.value);
  }

  // moments: the times of all events; blocks: the times when blocks begin.
  set(moments, blocks) {
    this.#halt();
    const sorted = (times) => [...new Set(times)].sort((a, b) => a - b);
    this.moments = sorted(moments);
    this.blocks = sorted(blocks);
    this.duration = this.moments.at(-1) ?? 0;
    this.range.max = Math.max(1, Math.round(this.duration * 1e6));
    this.speed.value = String(speedFor(this.duration));
    for (const control of this.root.querySelectorAll("button, input, select")) control.disabled = !this.moments.length;
    this.part("previous").disabled = this.part("next").disabled = !this.blocks.length;
    this.time = Math.min(this.time, this.duration);
    this.#labels();
  }

  play() {
    if (this.playing) return this.pause();
    if (!this.moments.length) return;
    if (this.time >= this.duration) this.seek(0);
    this.playing = true;
    this.#labels();
    let last = null;
    const tick = (now) => {
      if (!this.playing) return;
      const passed = last === null ? 0 : Math.min(LONGEST_FRAME, (now - last) / 1000);
      last = now;
      this.#go(Math.min(this.duration, this.time + passed * this.rate));
      if (this.time >= this.duration) this.pause();
      else requestAnimationFrame(tick);
    };
    requestAnimationFrame(tick);
  }

  pause() {
    this.#halt();
    this.on.pause();
  }

  seek(time) {
    this.wanted = null;
    this.#go(Math.max(0, Math.min(this.duration, time)));
  }

  // To the next or previous event of any lane, or block.
  forward() {
    this.#jump(this.moments.find((moment) => moment > this.time + 1e-9) ?? this.duration);
  }

  back() {
    this.#jump(this.moments.findLast((moment) => moment < this.time - 1e-9) ?? 0);
  }

  next() {
    this.#jump(this.blocks.find((moment) => moment > this.time + 1e-9) ?? this.duration);
  }

  previous() {
    this.#jump(this.blocks.findLast((moment) => moment < this.time - 1e-9) ?? 0);
  }

  // A key was pressed outside text fields. Returns true if the scrubber has used it.
  pressed(key) {
    const act = {
      " ": () => this.play(),
      ArrowRight: () => this.forward(),
      ArrowLeft: () => this.back(),
      Home: () => this.#jump(0),
      End: () => this.#jump(this.duration),
      "[": () => this.previous(),
      "]": () => this.next(),
    }[key];
    if (!act || !this.moments.length) return false;
    act();
    return true;
  }

  #jump(time) {
    this.#halt();
    this.seek(time);
    this.on.pause();
  }

  #halt() {
    if (!this.playing) return;
    this.playing = false;
    this.#labels();
  }

  // Draw once for all inputs of a frame.
  #soon(time) {
    if (this.wanted === null) {
      requestAnimationFrame(() => {
        if (this.wanted !== null) this.seek(this.wanted);
      });
    }
    this.wanted = time;
  }

  #go(time) {
    this.time = time;
    const micros = String(Math.round(time * 1e6));
    if (this.range.value !== micros) this.range.value = micros;
    this.range.style.setProperty("--done", `${this.duration ? (100 * time) / this.duration : 0}%`);
    this.part("clock").textContent = `${clock(time)} / ${clock(this.duration)} s`;
    this.range.setAttribute("aria-valuetext", `${clock(time)} of ${clock(this.duration)} seconds`);
    this.on.seek(time, this.playing);
  }

  #labels() {
    const play = this.part("play");
    play.dataset.playing = this.playing;
    play.setAttribute("aria-label", this.playing ? "Pause" : "Play");
    play.title = this.playing ? "Pause (space)" : "Play (space)";
    this.part("clock").textContent = `${clock(this.time)} / ${clock(this.duration)} s`;
    this.root.dispatchEvent(new Event("speed"));
  }
}

function clock(time) {
  return time.toFixed(3);
}

function speedName(speed) {
  if (speed > 1) return `${speed}x speed`;
  return speed === 1 ? "real speed" : `1/${Math.round(1 / speed)} speed`;
}

// A small model finishes in a tenth of a second, too fast to see; a large one can be replayed at real speed, unless it
// is so slow that nobody would wait.
function speedFor(duration) {
  const speeds = SPEEDS.filter((each) => each <= 1 || duration > LONG_RACE);
  const off = (speed) => Math.abs(Math.log(Math.max(duration, 1e-6) / speed / GOOD_REPLAY));
  return speeds.reduce((best, speed) => (off(speed) < off(best) ? speed : best));
}
