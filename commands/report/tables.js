// tables.js -- what of a run stands in words and tables: results, health, settings, log.
"use strict";

const Tables = (() => {
	const cell = (text, kind) => el("td", kind ? { class: kind } : null, text);
	const head = (...titles) => el("thead", null, el("tr", null, ...titles.map((t, i) => el("th", { scope: "col", class: i ? "n" : undefined }, t))));
	const scroll = (table) => el("div", { class: "scroll" }, table);
	// Digits that stand below each other; what is large has none behind the point.
	const fixed = (v) => (isNumber(v) && Math.abs(v) < 100 ? v.toFixed(3) : format(v));
	const signed = (v) => (isNumber(v) ? (v > 0 ? "+" : v < 0 ? "−" : "±") + fixed(Math.abs(v)) : "–");
	const runName = (run) => el("span", { class: "run", style: `--hue:${run.hue}` }, run.name);

	function duration(s) {
		if (!isNumber(s)) return "–";
		if (s < 90) return `${Math.round(s)} s`;
		if (s < 5400) return `${Math.round(s / 60)} min`;
		return s < 172800 ? `${trim((s / 3600).toFixed(1))} h` : `${trim((s / 86400).toFixed(1))} days`;
	}

	const column = (rows, name) => rows[name] || [];
	function ends(values) {
		const there = values.filter(isNumber);
		return { first: there[0], last: there[there.length - 1], n: there.length };
	}

	// ---- Results ----

	// One card a run: where it stands, and what that took.
	function headline(run, held) {
		const { steps, evals } = run.rows, key = held ? `eval/${held}` : "reward/mean";
		const values = ends(column(held ? evals : steps, key)), low = ends(column(evals, "eval/low")), high = ends(column(evals, "eval/high"));
		const step = ends(column(steps, "step")).last, most = Number(run.config["train.max_steps"]);
		const facts = [
			["steps", run.stages || !most ? format(step || 0) : `${format(step || 0)} of ${format(most)}`],
			["images", format(ends(column(steps, "images")).last || 0)],
			["training", duration(ends(column(steps, "time/train_total")).last)],
			["device time", duration(ends(column(steps, "time/device_total")).last)],
		];
		const words = { strict: "of the held-out images are exactly right", soft: "held-out score" };
		const before = values.n > 1 ? `from ${share(values.first, held)} before training` : "";
		const within = held && isNumber(low.last) ? `95 % interval ${share(low.last, held)} to ${share(high.last, held)}` : "";
		return el("div", { class: "panel" }, runName(run), el("span", { class: "soft" }, ` · ${run.state}`),
			el("p", { class: "headline" }, share(values.last, held)),
			el("p", null, held ? words[held] : "mean reward of the newest step"),
			el("p", { class: "soft" }, [before, within].filter(Boolean).join("; ")),
			el("dl", { class: "facts" }, ...facts.flatMap(([k, v]) => [el("dt", null, k), el("dd", null, v)])));
	}
	const share = (v, held) => (held === "strict" && isNumber(v) ? `${(100 * v).toFixed(1)} %` : fixed(v));

	// A line a tag and a reward, first and newest evaluation of each run.
	function results(runs, held) {
		const tags = [...new Set(runs.flatMap((r) => Object.keys(r.rows.evals)).filter((k) => k.startsWith(`eval/${held}/`)))];
		const rewards = [...new Set(runs.flatMap((r) => Object.keys(r.rows.evals)).filter((k) => k.startsWith("eval/reward/")))];
		const kinds = ["geneval", "strict", "soft"].map((k) => `eval/${k}`).filter((k) => runs.some((r) => column(r.rows.evals, k).some(isNumber)));
		const titles = { "eval/geneval": "GenEval's own score", "eval/strict": "exactly right", "eval/soft": "soft score" };
		const row = (key, title, kind) => el("tr", kind ? { class: kind } : null, el("th", { scope: "row" }, title), ...runs.flatMap((r) => {
			const v = ends(column(r.rows.evals, key)), change = v.last - v.first;
			return [cell(fixed(v.first), "n"), cell(fixed(v.last), "n"), cell(signed(v.n > 1 ? change : undefined), "n" + (v.n > 1 && change > 0 ? " good" : ""))];
		}));
		const names = runs.length > 1 ? el("tr", null, el("td", null, ""), ...runs.map((r) => el("th", { colspan: 3, class: "n", scope: "colgroup" }, runName(r)))) : null;
		const body = el("tbody", null, ...tags.map((t) => row(t, t.slice(`eval/${held}/`.length))), ...kinds.map((k) => row(k, titles[k], k === `eval/${held}` ? "total" : "")),
			...(rewards.length > 1 ? rewards.map((k) => row(k, "reward " + k.slice(12))) : []));
		const table = el("table", null, head("", ...runs.flatMap(() => ["first", "newest", "change"])), body);
		if (names) table.tHead.prepend(names);
		return el("div", { class: "panel" }, scroll(table));
	}

	// ---- Health: every number with a normal range, where it was last ----

	function rangeText(m) {
		if (isNumber(m.low) && isNumber(m.high)) return `${format(m.low)} to ${format(m.high)}`;
		return isNumber(m.high) ? (m.high === 0 ? "0" : `up to ${format(m.high)}`) : `from ${format(m.low)}`;
	}
	const outside = (m, v) => isNumber(v) && ((isNumber(m.low) && v < m.low) || (isNumber(m.high) && v > m.high));

	function health(runs, bounded) {
		const rows = bounded.flatMap(({ key, metric }) => runs.map((run) => {
			const rows = key in run.rows.steps ? run.rows.steps : run.rows.evals, { first, last } = ends(column(rows, key));
			return { key, metric, run, first, last, bad: outside(metric, last) };
		})).filter((r) => r.last !== undefined);
		if (!rows.length) return null;
		const found = rows.filter((r) => r.bad).length;
		const summary = el("p", { class: found ? "look" : "good", style: "margin-bottom:10px" },
			found ? `▲ ${found} of ${rows.length} numbers are outside of what is normal` : `✓ All ${rows.length} numbers are within what is normal`);
		const mark = (bad) => el("span", { class: bad ? "look" : "good", "aria-label": bad ? "not normal" : "normal" }, bad ? "▲ " : "✓ ");
		const body = rows.map((r) => el("tr", null, el("th", { scope: "row" }, mark(r.bad), r.metric.title), ...(runs.length > 1 ? [el("td", null, runName(r.run))] : []),
			cell(format(r.first), "n"), cell(format(r.last), "n"), cell(rangeText(r.metric), "n"), ...(found ? [el("td", { class: "wide" }, r.bad ? r.metric.look : "")] : [])));
		const titles = ["", ...(runs.length > 1 ? ["run"] : []), "first", "newest", "normal", ...(found ? [""] : [])];
		const table = el("table", null, head(...titles), el("tbody", null, ...body));
		table.querySelectorAll("thead th").forEach((th) => ["", "run"].includes(th.textContent) && th.classList.remove("n"));
		return el("div", { class: "panel", style: "margin-bottom:18px" }, summary, scroll(table));
	}

	// ---- Settings ----

	function pairs(rows, ...titles) {
		const table = el("table", null, head(...titles), el("tbody", null, ...rows.map((r) => el("tr", null, ...r.map((v, i) => cell(v === null || v === undefined ? "–" : v === "" ? "(empty)" : String(v), i ? "wide" : "key"))))));
		table.querySelectorAll("th").forEach((th) => th.classList.remove("n"));
		return scroll(table);
	}
	const more = (title, content) => el("details", { class: "more" }, el("summary", null, title), content);

	function settings(runs) {
		const out = [], keys = [...new Set(runs.flatMap((r) => Object.keys(r.config)))];
		if (runs.length > 1) {
			const differ = keys.filter((k) => new Set(runs.map((r) => r.config[k])).size > 1);
			out.push(el("div", { class: "panel" }, el("h3", null, differ.length ? "What differs between these runs" : "These runs have the same settings"),
				differ.length ? pairs(differ.map((k) => [k, ...runs.map((r) => r.config[k])]), "key", ...runs.map((r) => r.name)) : null));
		} else {
			const own = Object.keys(runs[0].defaults).filter((k) => runs[0].config[k] !== runs[0].defaults[k]);
			out.push(el("div", { class: "panel" }, el("h3", null, own.length ? "What is set, and what it would be otherwise" : "All settings are the defaults"),
				own.length ? pairs(own.map((k) => [k, runs[0].config[k], runs[0].defaults[k]]), "key", "value", "default") : null));
		}
		for (const r of runs)
			for (const c of r.changes)
				if (c.changes.length) out.push(el("div", { class: "panel", style: "margin-top:14px" }, el("h3", null, `${r.name}: changed after step ${Number(c.until.slice(0, 8))}`), pairs(c.changes, "key", "before", "from then on")));
		out.push(more(`All ${keys.length} settings`, pairs(keys.map((k) => [k, ...runs.map((r) => r.config[k])]), "key", ...runs.map((r) => r.name))));
		return out;
	}

	// ---- Where it ran, and what the log warns of ----

	function warnings(log) {
		const groups = new Map();
		for (const [time, text] of log.warnings) {
			const g = groups.get(text) || { n: 0 };
			groups.set(text, { n: g.n + 1, time });
		}
		return [...groups].map(([text, g]) => [text, g.n, g.time.replace("T", " ")]);
	}

	function log(run) {
		const rows = warnings(run.log), n = run.log.n_warnings;
		return el("div", { class: "panel", style: "margin-bottom:18px" }, runName(run), el("span", { class: "soft" }, run.log.starts > 1 ? ` · started ${run.log.starts} times` : ""),
			...run.log.facts.map((f) => el("p", { class: "soft", style: "overflow-wrap:anywhere;font-size:14px;margin-top:4px" }, f)),
			el("p", { class: n ? "look" : "good", style: "margin-top:10px" }, n ? `▲ ${n} warning${n > 1 ? "s" : ""}` : "✓ No warnings"),
			rows.length ? pairs(rows, "warning", "times", "last") : null);
	}

	return { headline, results, health, settings, log, column, ends, duration };
})();
