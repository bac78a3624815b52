/** How many messages a second came and went over the last minute, as two figures and a chart. */

import uPlot from "uplot";
import "uplot/dist/uPlot.min.css";

import { byId } from "./dom.ts";
import type { Session } from "./session.ts";
import { count, rate } from "./words.ts";

const SAMPLE_MS = 1000;
const SAMPLES = 61;

export class Rates {
  private readonly place = byId("chart", HTMLElement);
  private readonly received: number[] = new Array<number>(SAMPLES).fill(0);
  private readonly published: number[] = new Array<number>(SAMPLES).fill(0);
  private readonly ago = Array.from({ length: SAMPLES }, (_, index) => index - SAMPLES + 1);
  private chart: uPlot | undefined;
  private timer: number | undefined;
  private last = { received: 0, published: 0, at: 0 };

  constructor() {
    new ResizeObserver(() => this.fit()).observe(this.place);
  }

  /** Counts what this session does, from nothing. */
  start(session: Session): void {
    this.stop();
    this.received.fill(0);
    this.published.fill(0);
    this.last = { received: session.received, published: session.published, at: performance.now() };
    this.timer = window.setInterval(() => this.sample(session), SAMPLE_MS);
    this.draw();
    this.write(session, 0, 0);
  }

  stop(): void {
    window.clearInterval(this.timer);
  }

  /** Draws with the colours that the theme now has. */
  restyle(): void {
    this.chart?.destroy();
    this.chart = undefined;
    this.draw();
  }

  private sample(session: Session): void {
    const at = performance.now();
    // Hidden tabs are woken late; a rate is over the time that really passed.
    const seconds = Math.max(0.001, (at - this.last.at) / 1000);
    const received = (session.received - this.last.received) / seconds;
    const published = (session.published - this.last.published) / seconds;
    this.last = { received: session.received, published: session.published, at };
    shift(this.received, received);
    shift(this.published, published);
    this.write(session, received, published);
    this.chart?.setData(this.data());
  }

  private write(session: Session, received: number, published: number): void {
    byId("rate-in", HTMLElement).textContent = rate(received);
    byId("rate-out", HTMLElement).textContent = rate(published);
    byId("total-in", HTMLElement).textContent = `${count(session.received)} in all`;
    byId("total-out", HTMLElement).textContent = `${count(session.published)} in all`;
  }

  private data(): uPlot.AlignedData {
    return [this.ago, this.received, this.published];
  }

  private fit(): void {
    const { clientWidth: width, clientHeight: height } = this.place;
    if (width === 0) return;
    if (this.chart === undefined) this.draw();
    else this.chart.setSize({ width, height });
  }

  private draw(): void {
    const { clientWidth: width, clientHeight: height } = this.place;
    if (this.chart !== undefined || width === 0) return;
    const style = getComputedStyle(document.documentElement);
    const colour = (name: string): string => style.getPropertyValue(name).trim();
    const font = `11px ${style.getPropertyValue("--font")}`;
    const line = (label: string, name: string): uPlot.Series => ({
      label,
      stroke: colour(name),
      fill: colour(`${name}-wash`),
      width: 1.75,
      points: { show: false },
    });
    this.chart = new uPlot(
      {
        width,
        height,
        padding: [6, 16, 0, 0],
        legend: { show: false },
        cursor: { show: false },
        scales: {
          x: { time: false, range: () => [1 - SAMPLES, 0] },
          // Room above the line, and a scale that does not jump about while nothing happens.
          y: { range: (_, __, max) => [0, Math.max(5, (max ?? 0) * 1.15)] },
        },
        axes: [
          {
            stroke: colour("--ink-3"),
            font,
            size: 24,
            gap: 8,
            grid: { show: false },
            ticks: { show: false },
            splits: () => [-60, -45, -30, -15, 0],
            values: (_, splits) => splits.map((split) => (split === 0 ? "now" : `${-split} s`)),
          },
          {
            stroke: colour("--ink-3"),
            font,
            size: 44,
            gap: 6,
            grid: { stroke: colour("--line"), width: 1 },
            ticks: { show: false },
            space: 30,
            incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1e3, 2e3, 5e3, 1e4, 2e4, 5e4, 1e5, 2e5, 5e5, 1e6],
            values: (_, splits) => splits.map(short),
          },
        ],
        series: [{}, line("Received", "--teal"), line("Published", "--rust")],
      },
      this.data(),
      this.place,
    );
  }
}

function shift(samples: number[], next: number): void {
  samples.shift();
  samples.push(next);
}

function short(value: number): string {
  return value >= 1000 ? `${value / 1000}k` : String(value);
}
