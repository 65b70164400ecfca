// charts.js -- curves, stacked areas and histograms over steps, as SVG with one cursor for all of them.
"use strict";

// An HTML or SVG element: el("p", {class: "note"}, "text", child, ...).
const SVG = "http://www.w3.org/2000/svg";
function el(name, attributes, ...children) {
	const svg = ["svg", "g", "path", "line", "rect", "text", "circle", "clipPath"].includes(name);
	const e = svg ? document.createElementNS(SVG, name) : document.createElement(name);
	for (const [k, v] of Object.entries(attributes || {})) if (v !== undefined && v !== null) e.setAttribute(k, v);
	e.append(...children.filter((c) => c !== null && c !== undefined));
	return e;
}

const isNumber = (v) => typeof v === "number" && Number.isFinite(v);

// As few digits as tell: 0.734, 12.3, 1.2e-4, 76,800.
function format(v) {
	if (!isNumber(v)) return "–";
	const a = Math.abs(v);
	if (a === 0) return "0";
	if (a >= 1e6) return trim((v / 1e6).toPrecision(3)) + "M";
	if (a >= 1000) return Math.round(v).toLocaleString("en-US");
	if (a < 1e-3) return v.toExponential(1).replace(".0e", "e").replace("e-", "e−");
	return a >= 100 ? String(Math.round(v)) : trim(v.toPrecision(3));
}
const trim = (s) => (s.includes(".") && !s.includes("e") ? s.replace(/\.?0+$/, "") : s);

// Round numbers that divide low .. high into about n parts.
function ticks(low, high, n) {
	const raw = (high - low) / n, power = 10 ** Math.floor(Math.log10(raw));
	const step = [1, 2, 5, 10].map((k) => k * power).find((s) => s >= raw * 0.999) || raw;
	const out = [];
	for (let v = Math.ceil(low / step - 1e-9) * step; v <= high + step * 1e-9; v += step) out.push(Math.abs(v) < step / 1e6 ? 0 : v);
	return out;
}

const Charts = (() => {
	const all = [];
	let cursor = null;

	// ---- A figure: title, what it shows, the value at the cursor, what to look for ----

	function frame(spec) {
		const readout = el("span", { class: "readout", "aria-live": "off" });
		const figure = el("figure", { "data-chart": spec.key },
			el("figcaption", null, el("h3", null, spec.title + (spec.unit ? `, ${spec.unit}` : "")), readout, spec.note ? el("p", null, spec.note) : null));
		const holder = el("div");
		figure.append(holder);
		if (spec.look) figure.append(el("details", null, el("summary", null, "What to look for"), spec.look));
		return { figure, holder, readout };
	}

	function add(spec, draw, values) {
		const chart = { spec, ...frame(spec), draw, values, width: 0 };
		all.push(chart);
		return chart.figure;
	}

	// The space that curves have: functions from values to pixels, and axes.
	function plot(chart, xs, low, high, right) {
		const w = chart.width, h = chart.spec.height || 168;
		const p = { w, h, left: 46, right, top: 8, bottom: 22, low, high };
		p.from = Math.min(...xs);
		p.to = Math.max(...xs);
		if (p.to <= p.from) p.to = p.from + 1;
		p.x = (v) => p.left + ((v - p.from) / (p.to - p.from)) * (w - p.left - p.right);
		p.y = (v) => h - p.bottom - ((v - low) / (high - low)) * (h - p.top - p.bottom);
		p.svg = el("svg", { viewBox: `0 0 ${w} ${h}`, role: "img", tabindex: "0", "aria-label": chart.spec.title });
		for (const v of ticks(low, high, h > 220 ? 5 : 3)) {
			p.svg.append(el("line", { class: "rule", x1: p.left, x2: w - p.right, y1: p.y(v), y2: p.y(v) }));
			p.svg.append(el("text", { x: p.left - 6, y: p.y(v) + 4, "text-anchor": "end" }, format(v)));
		}
		const marks = ticks(p.from, p.to, Math.max(2, Math.min(6, Math.floor((w - p.left - p.right) / 70)))).filter(Number.isInteger);
		for (const v of marks)
			p.svg.append(el("text", { x: p.x(v), y: h - 6, "text-anchor": "middle" }, (v === marks[marks.length - 1] ? "step " : "") + format(v)));
		p.svg.append(el("line", { class: "base", x1: p.left, x2: w - p.right, y1: h - p.bottom, y2: h - p.bottom }));
		for (const s of chart.spec.stages || []) p.svg.append(el("line", { class: "stage", x1: p.x(s), x2: p.x(s), y1: p.top, y2: h - p.bottom }));
		return p;
	}

	// A path through what is there; a gap where nothing is.
	function path(p, xs, ys) {
		let d = "", down = false;
		xs.forEach((x, i) => {
			if (!isNumber(ys[i])) {
				down = false;
				return;
			}
			d += `${down ? "L" : "M"}${p.x(x).toFixed(1)},${p.y(ys[i]).toFixed(1)}`;
			down = true;
		});
		return d;
	}

	function area(p, xs, low, high) {
		const there = xs.map((_, i) => i).filter((i) => isNumber(low[i]) && isNumber(high[i]));
		if (there.length < 2) return "";
		const point = (i, v) => `${p.x(xs[i]).toFixed(1)},${p.y(v[i]).toFixed(1)}`;
		return "M" + there.map((i) => point(i, high)).join("L") + "L" + there.reverse().map((i) => point(i, low)).join("L") + "Z";
	}

	// The mean of the neighbours within `half` on either side.
	function smooth(ys, half) {
		return ys.map((_, i) => {
			let sum = 0, n = 0;
			for (let k = Math.max(0, i - half); k <= Math.min(ys.length - 1, i + half); k++)
				if (isNumber(ys[k])) {
					sum += ys[k];
					n++;
				}
			return n ? sum / n : null;
		});
	}

	// ---- Curves ----

	// Where the axis ends: at what nearly all values lie within, so that one spike flattens nothing.
	function limits(spec) {
		if (spec.range) return spec.range;
		const v = spec.series.flatMap((s) => [...s.y, ...(s.low || []), ...(s.high || [])]).filter(isNumber).sort((a, b) => a - b);
		if (!v.length) return [0, 1];
		let low = v[0], high = v[v.length - 1];
		const near = v[Math.floor(0.99 * (v.length - 1))];
		if (v.length > 50 && high - low > 4 * (near - low) && near > low) high = near + 0.25 * (near - low);
		if (low >= 0 && low < 0.4 * high) low = 0;
		if (high - low <= 0.005 * Math.abs(high)) { // level: not a cliff of its rounding
			const pad = Math.abs(low) > 0 ? Math.abs(low) * 0.1 : 1;
			return low === 0 ? [0, pad] : [low - pad, high + pad];
		}
		const pad = 0.06 * (high - low);
		return [low === 0 ? 0 : low - pad, high + pad];
	}

	function drawLimits(p, spec) {
		for (const [v, above, word] of [[spec.low, false, "from"], [spec.high, true, "up to"]]) {
			if (!isNumber(v) || v <= p.low || v >= p.high) continue;
			const y = p.y(v);
			p.svg.append(el("rect", { class: "beyond", x: p.left, width: p.w - p.left - p.right, y: above ? p.top : y, height: above ? y - p.top : p.h - p.bottom - y }));
			p.svg.append(el("line", { class: "limit", x1: p.left, x2: p.w - p.right, y1: y, y2: y }));
			p.svg.append(el("text", { class: "mark", x: p.left + 4, y: above ? y - 4 : y + 12 }, `normal ${word} ${format(v)}`));
		}
	}

	function lastOf(s) {
		for (let i = s.y.length - 1; i >= 0; i--) if (isNumber(s.y[i])) return i;
		return -1;
	}

	// Labels at the curves' ends, moved apart where they would touch.
	function endLabels(p, series, text) {
		const ends = series.map((s) => ({ s, i: lastOf(s) })).filter((e) => e.i >= 0);
		for (const e of ends) e.at = Math.max(p.top + 6, Math.min(p.h - p.bottom - 2, p.y(e.s.drawn[e.i]) + 4));
		ends.sort((a, b) => a.at - b.at);
		for (let k = 1; k < ends.length; k++) ends[k].at = Math.max(ends[k].at, ends[k - 1].at + 13);
		for (const e of ends) p.svg.append(el("text", { class: "label", x: p.w - p.right + 6, y: e.at, style: `fill:${e.s.hue}` }, text(e.s, e.i)));
	}

	function drawLines(chart) {
		const { spec } = chart, many = spec.series.length > 1;
		const [low, high] = limits(spec);
		const longest = Math.max(0, ...spec.series.map((s) => s.name.length));
		const p = plot(chart, spec.series.flatMap((s) => s.x), low, high, many ? Math.min(110, 18 + 6.4 * longest) : 56);
		const clip = `clip-${all.indexOf(chart)}`;
		p.svg.append(el("clipPath", { id: clip }, el("rect", { x: 0, y: p.top - 2, width: p.w, height: p.h - p.top - p.bottom + 4 })));
		drawLimits(p, spec);
		const inner = el("g", { "clip-path": `url(#${clip})` });
		p.svg.append(inner);
		for (const s of spec.series) {
			const noisy = s.y.length > 60 && !s.low;
			s.drawn = noisy ? smooth(s.y, Math.ceil(s.y.length / 60)) : s.y;
			if (s.low) inner.append(el("path", { class: "band", d: area(p, s.x, s.low, s.high), style: `fill:${s.hue}` }));
			if (noisy) inner.append(el("path", { class: "raw", d: path(p, s.x, s.y), style: `stroke:${s.hue}` }));
			inner.append(el("path", { class: "line", d: path(p, s.x, s.drawn), style: `stroke:${s.hue}` }));
			if (s.y.length <= 30) s.y.forEach((y, i) => isNumber(y) && inner.append(el("circle", { cx: p.x(s.x[i]), cy: p.y(y), r: 2.5, style: `fill:${s.hue}` })));
		}
		endLabels(p, spec.series, (s, i) => (many ? shorten(s.name, 16) : format(s.drawn[i])));
		p.svg.setAttribute("aria-label", describe(spec));
		return p;
	}

	const shorten = (name, n) => (name.length > n ? name.slice(0, n - 1) + "…" : name);

	function describe(spec) {
		return `${spec.title}. ` + spec.series.map((s) => {
			const first = s.y.findIndex(isNumber), last = lastOf(s);
			return first < 0 ? `${s.name}: no value` : `${s.name}: from ${format(s.y[first])} at step ${s.x[first]} to ${format(s.y[last])} at step ${s.x[last]}`;
		}).join("; ");
	}

	// The place of the value nearest to a step.
	function nearest(xs, step) {
		let best = 0;
		for (let i = 1; i < xs.length; i++) if (Math.abs(xs[i] - step) < Math.abs(xs[best] - step)) best = i;
		return best;
	}

	function readLines(chart, step) {
		return chart.spec.series.filter((s) => s.x.length).map((s) => {
			const i = nearest(s.x, step), value = format(s.y[i]);
			const within = s.low && isNumber(s.low[i]) ? ` (${format(s.low[i])} to ${format(s.high[i])})` : "";
			return { text: value + within, hue: s.hue, step: s.x[i] };
		});
	}

	// spec: key, title, unit, note, look, low, high, range, height, stages, and
	// series: [{name, hue, x, y, low, high}], low and high of an interval or undefined.
	const lines = (spec) => add(spec, drawLines, readLines);

	// ---- Stacked areas: spec.parts: [{name, hue, y}] over spec.x ----

	function bucket(xs, parts, most) {
		const every = Math.ceil(xs.length / most), x = [], ys = parts.map(() => []);
		for (let i = 0; i < xs.length; i += every) {
			x.push(xs[Math.min(i + every, xs.length) - 1]);
			parts.forEach((part, k) => {
				const v = part.y.slice(i, i + every).filter(isNumber);
				ys[k].push(v.length ? v.reduce((a, b) => a + b, 0) / v.length : 0);
			});
		}
		return { x, ys };
	}

	function drawStack(chart) {
		const { spec } = chart, { x, ys } = bucket(spec.x, spec.parts, 160);
		const total = x.map((_, i) => ys.reduce((sum, y) => sum + y[i], 0)), sorted = [...total].sort((a, b) => a - b);
		const near = sorted[Math.floor(0.98 * (sorted.length - 1))] || 1;
		const p = plot(chart, x, 0, Math.min(1.08 * Math.max(...total), 1.6 * near) || 1, 118);
		let below = x.map(() => 0);
		const labels = [];
		spec.parts.forEach((part, k) => {
			const top = x.map((_, i) => Math.min(below[i] + ys[k][i], p.high));
			p.svg.append(el("path", { d: area(p, x, below, top), style: `fill:${part.hue};opacity:.82;stroke:var(--panel);stroke-width:1` }));
			const i = x.length - 1, sum = ys[k].reduce((a, b) => a + b, 0);
			labels.push({ part, at: p.y((below[i] + top[i]) / 2) + 4, share: sum / (total.reduce((a, b) => a + b, 0) || 1) });
			below = top;
		});
		labels.sort((a, b) => b.at - a.at);
		for (let k = 1; k < labels.length; k++) labels[k].at = Math.min(labels[k].at, labels[k - 1].at - 13);
		for (const l of labels)
			p.svg.append(el("text", { class: "label", x: p.w - p.right + 6, y: l.at, style: `fill:${l.part.hue}` }, `${l.part.name} ${Math.round(100 * l.share)} %`));
		p.svg.setAttribute("aria-label", `${spec.title}. Shares of the time: ` + labels.map((l) => `${l.part.name} ${Math.round(100 * l.share)} %`).join(", "));
		return p;
	}

	function readStack(chart, step) {
		const { spec } = chart, i = nearest(spec.x, step);
		return spec.parts.map((part) => ({ text: format(part.y[i]), hue: part.hue, step: spec.x[i] }));
	}
	const stack = (spec) => add(spec, drawStack, readStack);

	// ---- Histograms: spec.x steps, spec.counts [{low, high, counts}], spec.hue, spec.mean (values or undefined) ----

	const ROWS = 24;
	function drawHeat(chart) {
		const { spec } = chart, there = spec.counts.filter(Boolean);
		const low = Math.min(...there.map((c) => c.low)), high = Math.max(...there.map((c) => c.high));
		const columns = Math.min(90, spec.x.length), p = plot(chart, spec.x, low, high > low ? high : low + 1, 30);
		const cells = Array.from({ length: columns }, () => new Array(ROWS).fill(0));
		spec.counts.forEach((c, i) => {
			if (!c) return;
			const column = cells[Math.min(columns - 1, Math.floor((i * columns) / spec.x.length))];
			c.counts.forEach((n, k) => {
				const v = c.low + ((k + 0.5) / c.counts.length) * (c.high - c.low);
				column[Math.min(ROWS - 1, Math.floor(((v - p.low) / (p.high - p.low)) * ROWS))] += n;
			});
		});
		const w = (p.w - p.left - p.right) / columns, h = (p.h - p.top - p.bottom) / ROWS;
		cells.forEach((column, i) => {
			const sum = column.reduce((a, b) => a + b, 0) || 1;
			column.forEach((n, k) => {
				if (!n) return;
				p.svg.append(el("rect", { x: (p.left + i * w).toFixed(1), y: (p.h - p.bottom - (k + 1) * h).toFixed(1), width: (w + 0.4).toFixed(1),
					height: (h + 0.2).toFixed(1), style: `fill:${spec.hue};opacity:${Math.min(1, 0.08 + 1.7 * (n / sum)).toFixed(2)}` }));
			});
		});
		if (spec.mean) p.svg.append(el("path", { class: "line", d: path(p, spec.x, smooth(spec.mean, Math.ceil(spec.mean.length / 60))), style: "stroke:var(--ink)" }));
		return p;
	}

	function readHeat(chart, step) {
		const { spec } = chart, i = nearest(spec.x, step), c = spec.counts[i];
		return c ? [{ text: `${format(c.low)} to ${format(c.high)}`, hue: spec.hue, step: spec.x[i] }] : [];
	}
	const heat = (spec) => add(spec, drawHeat, readHeat);

	// ---- The cursor ----

	function show(chart, step) {
		chart.mark.setAttribute("visibility", step === null ? "hidden" : "visible");
		if (step === null) {
			chart.readout.replaceChildren();
			return;
		}
		const values = chart.values(chart, step);
		if (!values.length) return;
		const x = chart.plot.x(Math.max(chart.plot.from, Math.min(chart.plot.to, values[0].step)));
		chart.mark.setAttribute("x1", x);
		chart.mark.setAttribute("x2", x);
		chart.readout.replaceChildren(`step ${values[0].step}: `, ...values.flatMap((v, i) => [i ? " · " : "", el("b", { style: `color:${v.hue}` }, v.text)]));
	}

	function setCursor(step) {
		cursor = step;
		for (const chart of all) if (chart.plot) show(chart, step);
	}

	function stepsOf(chart) {
		const xs = chart.spec.x || chart.spec.series.flatMap((s) => s.x);
		return [...new Set(xs)].sort((a, b) => a - b);
	}

	function onKey(chart, event) {
		const xs = stepsOf(chart), at = cursor === null ? xs.length - 1 : nearest(xs, cursor), by = event.shiftKey ? 10 : 1;
		const to = { ArrowLeft: at - by, ArrowRight: at + by, Home: 0, End: xs.length - 1 }[event.key];
		if (event.key === "Escape") setCursor(null);
		if (to === undefined || !xs.length) return;
		event.preventDefault();
		setCursor(xs[Math.max(0, Math.min(xs.length - 1, to))]);
	}

	function listen(chart) {
		const { svg } = chart.plot;
		svg.addEventListener("pointermove", (event) => {
			const box = svg.getBoundingClientRect(), p = chart.plot;
			const at = ((event.clientX - box.left) / box.width) * p.w;
			setCursor(p.from + ((at - p.left) / (p.w - p.left - p.right)) * (p.to - p.from));
		});
		svg.addEventListener("pointerleave", () => setCursor(null));
		svg.addEventListener("keydown", (event) => onKey(chart, event));
		svg.addEventListener("focus", () => chart.readout.setAttribute("aria-live", "polite"));
		svg.addEventListener("blur", () => {
			chart.readout.setAttribute("aria-live", "off");
			setCursor(null);
		});
	}

	// Those whose width has changed since they were drawn.
	function draw() {
		for (const chart of all) {
			const width = Math.round(chart.holder.clientWidth);
			if (!width || width === chart.width) continue;
			chart.width = width;
			chart.plot = chart.draw(chart);
			chart.mark = el("line", { class: "cursor", y1: chart.plot.top, y2: chart.plot.h - chart.plot.bottom, visibility: "hidden" });
			chart.plot.svg.append(chart.mark);
			chart.holder.replaceChildren(chart.plot.svg);
			listen(chart);
		}
	}

	return { lines, stack, heat, draw, lastOf };
})();
