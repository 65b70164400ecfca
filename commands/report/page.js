// page.js -- the sections of the page, from the JSON that lies in it.
"use strict";

(() => {
	const data = JSON.parse(document.getElementById("data").textContent), { runs } = data;
	const { column } = Tables, main = document.getElementById("main"), nav = document.getElementById("nav");
	const hues = 8;
	main.replaceChildren();

	// What stays when the page loads itself again; where nothing can be kept it begins anew.
	const state = {
		key: "contraflow " + runs.map((r) => r.path).join(" "),
		all() {
			try { return JSON.parse(sessionStorage.getItem(this.key)) || {}; } catch { return {}; }
		},
		get(name) { return this.all()[name]; },
		put(name, value) {
			try { sessionStorage.setItem(this.key, JSON.stringify({ ...this.all(), [name]: value })); } catch { /* private windows */ }
		},
	};

	runs.forEach((r, i) => {
		r.hue = `var(--c${i % hues})`;
		const stage = column(r.rows.steps, "stage");
		r.stages = stage.length ? stage.map((s, k) => (k && s !== stage[k - 1] ? r.rows.steps.step[k] : null)).filter(isNumber) : null;
	});
	const stages = runs.flatMap((r) => r.stages || []);

	// ---- What is known of a metric ----

	// eval/SET/strict is what eval/strict is, of one set of prompts; and so is reward/SET/mean
	function metricOf(key) {
		const [kind, set, ...rest] = key.split("/");
		const m = find(key);
		if (!rest.length || !["eval", "reward"].includes(kind) || (kind === "eval" && m.section >= 0)) return m;
		const whole = find([kind, ...rest].join("/"));
		return { ...whole, title: `${whole.title} (${set})` };
	}
	function find(key) {
		const exact = data.metrics.find((m) => m.name === key);
		const below = data.metrics.filter((m) => m.name.endsWith("/") && key.startsWith(m.name)).sort((a, b) => b.name.length - a.name.length)[0];
		const m = exact || below || { name: key, title: key, unit: "", section: -1, low: null, high: null, meaning: "", look: "" };
		return m.name.endsWith("/") ? { ...m, title: title(m, key.slice(m.name.length)) } : m;
	}
	const title = (m, word) => (m.name === "eval/reward/" || m.name === "reward/" ? `Reward ${word}` : m.name === "loss/" ? word : word.replace(/_/g, " "));
	const names = (kind) => [...new Set(runs.flatMap((r) => Object.keys(r.rows[kind])))].filter((k) => runs.some((r) => column(r.rows[kind], k).some(isNumber)));

	function chart(kind, key, extra) {
		const m = metricOf(key);
		const series = runs.filter((r) => column(r.rows[kind], key).some(isNumber)).map((r) => ({
			name: r.name, hue: r.hue, x: r.rows[kind].step, y: r.rows[kind][key],
			...(extra && extra.low && r.rows[kind][extra.low] ? { low: r.rows[kind][extra.low], high: r.rows[kind][extra.high] } : {}),
		}));
		return Charts.lines({ key, title: m.title, unit: m.unit, note: m.meaning, look: m.look, low: m.low, high: m.high, stages, series, ...extra, ...(series.length ? {} : { range: [0, 1] }) });
	}
	const grid = (figures) => (figures.length ? el("div", { class: "grid" }, ...figures) : null);

	function section(id, name, note, ...content) {
		const there = content.flat().filter(Boolean);
		if (!there.length) return;
		main.append(el("section", { id }, el("h2", null, name), el("p", { class: "note" }, note), ...there));
		nav.append(el("li", null, el("a", { href: "#" + id }, name)));
	}

	// ---- The sections ----

	const evals = names("evals"), steps = names("steps");
	const held = evals.includes("eval/strict") ? "strict" : evals.includes("eval/soft") ? "soft" : null;
	const inUnit = (keys) => keys.every((k) => runs.every((r) => column(r.rows.evals, k).every((v) => !isNumber(v) || (v >= 0 && v <= 1))));

	section("result", "Result", held ? "Scores on prompts that were not trained on, drawn by the averaged policy. An interval says how far chance in the choice of prompts may have moved a score."
		: "This run has no held-out prompts (prompts.test): what stands here is the reward in training.",
		el("div", { class: runs.length === 1 && held ? "beside" : null }, el("div", { class: "cards" }, ...runs.map((r) => Tables.headline(r, held))), held ? Tables.results(runs, held) : null));

	function heldOut() {
		if (!held) return [];
		const key = `eval/${held}`, tags = evals.filter((k) => k.startsWith(key + "/")), range = inUnit([key, ...tags]) ? [0, 1] : undefined;
		const others = ["eval/geneval", "eval/soft"].filter((k) => k !== key && evals.includes(k));
		const rewards = evals.filter((k) => k.startsWith("eval/reward/"));
		const tag = (k) => k.slice(key.length + 1);
		return [
			el("div", { style: "margin-bottom:18px" }, chart("evals", key, { low: "eval/low", high: "eval/high", range, height: 260 })),
			grid(tags.map((k) => chart("evals", k, { low: `eval/low/${tag(k)}`, high: `eval/high/${tag(k)}`, range, note: "", look: "" }))),
			grid([...others, ...(rewards.length > 1 ? ["eval/reward", ...rewards] : [])].map((k) => chart("evals", k))),
		];
	}
	section("held-out", "Held-out scores", "The curves to judge a run by. The shaded band is the 95 % interval by prompts; below, the same of each kind of prompt.", heldOut());

	const ofSection = (n, skip) => steps.filter((k) => !skip.includes(k) && metricOf(k).section === n);
	const single = steps.filter((k) => metricOf(k).name === "reward/").length === 1 ? steps.filter((k) => metricOf(k).name === "reward/") : [];
	section("training", "Training", "Rewards of the images that are trained on, and the loss. Single steps differ because their prompts do: the thin line is each step, the thick one the mean of its neighbours.",
		grid(ofSection(1, single).map((k) => chart("steps", k))), grid(ofSection(2, []).map((k) => chart("steps", k))), grid(ofSection(3, []).map((k) => chart("steps", k))));

	const bounded = [...new Set([...steps, ...evals])].map((key) => ({ key, metric: metricOf(key) })).filter((b) => isNumber(b.metric.low) || isNumber(b.metric.high));
	section("health", "Health", "Numbers that tell of a run that goes wrong before its score does. What is normal is a rule of thumb; a drift away from where the run began says more.",
		Tables.health(runs, bounded), grid(ofSection(4, ["skipped", "rollbacks", "reward/unavailable", "reward/left_out"]).map((k) => chart("steps", k))));

	if (runs.some((r) => r.images && r.images.grids.length))
		section("images", "Images", "The first image of the same held-out prompts, always from the same noise: what training changes, and nothing else. Left the first one, right the chosen step; ✓ is exactly right.",
			runs.filter((r) => r.images && r.images.grids.length).flatMap((r) => [runs.length > 1 ? el("h3", { style: "margin-top:18px" }, r.name) : null, ...Images.gallery(r, r.hue, state)]));

	const phases = [["time/rollout", "sampling"], ["time/reward_wait", "rewards"], ["time/update", "update"], ["time/all_reduce", "ranks"]];
	section("time", "Time", "Seconds of a step by phase: sampling and decoding, waiting for rewards, the update, and summing over ranks. Evaluations come on top.",
		runs.filter((r) => column(r.rows.steps, "time/rollout").some(isNumber)).map((r) => el("div", { style: "margin-bottom:18px" }, Charts.stack({ key: "phases " + r.name, height: 220, title: runs.length > 1 ? `Phases of ${r.name}` : "Phases of a step", unit: "s",
			note: "Each band is one phase; its share of all steps stands beside it.", stages: r.stages, x: r.rows.steps.step,
			parts: phases.map(([k, name], i) => ({ name, hue: `var(--c${i})`, y: column(r.rows.steps, k) })) }))),
		grid([...(evals.includes("time/eval") ? [chart("evals", "time/eval")] : []), ...ofSection(5, [...phases.map((p) => p[0]), "time/train_total", "time/device_total"]).map((k) => chart("steps", k))]));

	const counts = runs.flatMap((r) => ["histogram/reward", "histogram/r"].filter((k) => column(r.rows.steps, k).some(Boolean)).map((key) => {
		const m = metricOf(key);
		return Charts.heat({ key: `${key} ${r.name}`, title: m.title + (runs.length > 1 ? `: ${r.name}` : ""), note: `${m.meaning} Darker: more images${key === "histogram/reward" ? "; the line is the mean" : ""}.`, look: m.look,
			x: r.rows.steps.step, counts: r.rows.steps[key], hue: r.hue, mean: key === "histogram/reward" ? r.rows.steps["reward/mean"] : undefined });
	}));
	section("distributions", "Distributions", "How the rewards of a step's images spread, and the optimality r that they are turned into.", grid(counts));
	section("settings", "Settings", runs.length > 1 ? "Differences between the runs first." : "What this run sets, defaults left out.", Tables.settings(runs));
	section("log", "Environment and log", "What the program said of itself when it was last started, and every warning since the run began.", runs.map(Tables.log));

	// ---- Head and foot ----

	document.getElementById("title").textContent = runs.map((r) => r.name).join(", ");
	document.title = `${runs.map((r) => r.name).join(", ")} – contraflow report`;
	const going = runs.some((r) => r.state === "running"), status = document.getElementById("status");
	status.textContent = `Written ${data.written}${going ? ", while it runs" : ""}. `;
	const every = Math.max(1, ...runs.map((r) => r.rows.every));
	document.getElementById("foot").textContent = `contraflow ${data.version} · ${runs.map((r) => r.path).join(", ")}` + (every > 1 ? ` · each point is the mean of up to ${every} epochs` : "");

	function reloads() {
		let timer = null;
		const button = el("button", { type: "button" });
		const go = (on) => {
			clearTimeout(timer);
			state.put("paused", !on);
			button.textContent = on ? `Reloads every ${data.refresh} s: pause` : "Paused: go on";
			if (on) timer = setTimeout(() => location.reload(), 1000 * data.refresh);
		};
		button.addEventListener("click", () => go(Boolean(state.get("paused"))));
		status.append(button);
		go(!state.get("paused"));
	}
	if (data.refresh) reloads();

	let frame = 0;
	new ResizeObserver(() => {
		cancelAnimationFrame(frame);
		frame = requestAnimationFrame(Charts.draw);
	}).observe(main);
	Charts.draw();
	document.documentElement.dataset.ready = "yes";
})();
