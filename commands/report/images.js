// images.js -- the same prompts' images over training: a slider, and beside each image the first one.
"use strict";

const Images = (() => {
	function decode(grid) {
		const raw = atob(grid.data), bytes = new Uint8Array(raw.length);
		for (let i = 0; i < raw.length; i++) bytes[i] = raw.charCodeAt(i);
		return createImageBitmap(new Blob([bytes], { type: `image/${grid.type}` }));
	}

	// Pixels of image i of a grid.
	function paint(canvas, set, grid, bitmap, i) {
		const { width: w, height: h } = grid;
		if (canvas.width !== w) canvas.width = w;
		if (canvas.height !== h) canvas.height = h;
		canvas.classList.toggle("tiny", w < 128);
		canvas.getContext("2d").drawImage(bitmap, (i % set.columns) * w, Math.floor(i / set.columns) * h, w, h, 0, 0, w, h);
	}

	const verdict = (s) => (s && isNumber(s.strict) ? (s.strict >= 1 ? " ✓" : " ✗") : "");
	const scoreText = (s) => (s ? (isNumber(s.reward) ? s.reward.toFixed(2) : "–") + verdict(s) : null);

	function words(card, set, at) {
		const first = set.grids[0].scores, now = set.grids[at].scores;
		const before = scoreText(first[card.i]), after = scoreText(now[card.i]), said = now[card.i] || {};
		card.score.textContent = !after ? "" : at === 0 || !before ? `score ${after}` : `score ${before} → ${after}`;
		card.score.classList.toggle("good", said.strict >= 1);
		card.why.textContent = said.why || "";
	}

	function makeCard(set, i) {
		const prompt = (set.prompts[i] || {}).prompt, tag = (set.prompts[i] || {}).tag || "";
		const before = el("canvas", { role: "img", "aria-label": `before training: ${prompt || "image"}` });
		const now = el("canvas", { role: "img", "aria-label": `at the chosen step: ${prompt || "image"}` });
		const score = el("p", { class: "score" }), why = el("p", { class: "score" });
		const box = el("div", { class: set.n > 1 ? "image" : "image whole", "data-tag": tag }, el("div", { class: "pair" }, before, now), prompt ? el("p", null, prompt) : null, score, why);
		return { i, tag, before, now, score, why, box };
	}

	// Everything about the images of one run.
	function gallery(run, hue, state) {
		const set = run.images, many = set.grids.length > 1;
		const slider = el("input", { type: "range", min: 0, max: set.grids.length - 1, step: 1, "aria-label": "step of training" });
		const label = el("output"), play = el("button", { type: "button" }, "Play"), pairs = el("input", { type: "checkbox" });
		const tags = [...new Set(set.prompts.map((p) => p.tag).filter(Boolean))];
		const choice = el("select", { "aria-label": "which tag" }, el("option", { value: "" }, "all tags"), ...tags.map((t) => el("option", { value: t }, t)));
		const cards = Array.from({ length: set.n }, (_, i) => makeCard(set, i));
		const holder = el("div", { class: "gallery" }, ...cards.map((c) => c.box));
		const bitmaps = set.grids.map(() => null);
		let timer = null, wanted = 0;

		const bitmap = (at) => (bitmaps[at] = bitmaps[at] || decode(set.grids[at]));
		async function go(at) {
			wanted = at;
			slider.value = at;
			state.put("image " + run.name, at);
			const step = set.grids[at].step;
			label.textContent = step === 0 ? "before training" : `after step ${step}`;
			slider.setAttribute("aria-valuetext", label.textContent);
			cards.forEach((c) => words(c, set, at));
			const [first, now] = await Promise.all([bitmap(0), bitmap(at)]);
			if (wanted !== at) return; // the slider has moved on
			cards.forEach((c) => {
				paint(c.before, set, set.grids[0], first, c.i);
				paint(c.now, set, set.grids[at], now, c.i);
			});
			holder.dataset.shown = step;
		}
		function stop() {
			clearInterval(timer);
			timer = null;
			play.textContent = "Play";
		}
		play.addEventListener("click", () => {
			if (timer) return stop();
			play.textContent = "Pause";
			if (wanted === set.grids.length - 1) go(0);
			timer = setInterval(() => (wanted < set.grids.length - 1 ? go(wanted + 1) : stop()), 700);
		});
		slider.addEventListener("input", () => go(Number(slider.value)));
		pairs.addEventListener("change", () => holder.classList.toggle("single", !pairs.checked));
		choice.addEventListener("change", () => cards.forEach((c) => (c.box.hidden = Boolean(choice.value) && c.tag !== choice.value)));
		pairs.checked = many && set.n > 1;
		holder.classList.toggle("single", !pairs.checked);
		const last = set.grids.length - 1, kept = state.get("image " + run.name);
		go(isNumber(kept) && kept <= last ? kept : last);
		return [
			el("div", { class: "controls", style: `--hue:${hue}` }, label, many ? slider : null, many ? play : null,
				many && set.n > 1 ? el("label", null, pairs, "beside the first") : null, tags.length > 1 ? choice : null),
			holder,
		];
	}
	return { gallery };
})();
