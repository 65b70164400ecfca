#include "trainer/record/metric_table.h"
#include "base/mem.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define ANY NAN

const char *const metric_sections[METRIC_SECTIONS] = {
	[METRIC_HELD_OUT] = "Held-out scores",
	[METRIC_REWARD] = "Rewards in training",
	[METRIC_LOSS] = "Loss",
	[METRIC_POLICY] = "Gradient and policies",
	[METRIC_HEALTH] = "Health",
	[METRIC_TIME] = "Time and memory",
	[METRIC_PLACE] = "Where the run stands",
};

const struct metric_info metric_table[] = {
	/* ---- Evaluations: of the averaged policy (ema), on prompts.test ---- */
	{ "eval/strict", "Exactly right", "", METRIC_HELD_OUT, ANY, ANY,
	  "Share of held-out images that are exactly what the prompt asks for, averaged over the tags.",
	  "It should rise with reward/mean. If only the reward rises, the policy has found a weakness of the "
	  "judge: look at the images." },
	{ "eval/geneval", "GenEval's own score", "", METRIC_HELD_OUT, ANY, ANY,
	  "Share of held-out images with at least what the prompt asks for, averaged over the tags; the "
	  "number that papers report.",
	  "It lies above eval/strict. A widening gap means too many objects." },
	{ "eval/soft", "Soft score", "", METRIC_HELD_OUT, ANY, ANY,
	  "Mean score of the held-out images, averaged over the tags, with part of the credit for images "
	  "that are nearly right.",
	  "It moves before eval/strict does, and is less noisy." },
	{ "eval/low", "Lower end", "", METRIC_HELD_OUT, ANY, ANY,
	  "Lower end of the 95 % interval of the held-out score, by prompts.",
	  "Two scores whose intervals overlap widely have not been shown to differ. More prompts narrow it, "
	  "more images of a prompt hardly do." },
	{ "eval/high", "Upper end", "", METRIC_HELD_OUT, ANY, ANY,
	  "Upper end of the 95 % interval of the held-out score, by prompts.", "As eval/low." },
	{ "eval/reward", "Weighted reward", "", METRIC_HELD_OUT, ANY, ANY,
	  "The weighted sum of the rewards, averaged over all held-out images.",
	  "Much below reward/mean late in a run, it says that what was learned does not carry over to other "
	  "prompts." },
	{ "eval/reward/", "Reward", "", METRIC_HELD_OUT, ANY, ANY,
	  "One reward by itself, averaged over all held-out images; also of those that are only watched.",
	  "A watched reward that falls while the trained one rises is the earliest sign of reward hacking: "
	  "lower optimizer.lr, raise the weight of the KL term, or set eval.alarm." },
	{ "eval/strict/", "Exactly right", "", METRIC_HELD_OUT, ANY, ANY,
	  "Share of this tag's held-out images that are exactly right.",
	  "Tags that stay behind want more prompts, or rollouts that sometimes succeed: a group in which all "
	  "fail teaches nothing." },
	{ "eval/geneval/", "GenEval's own score", "", METRIC_HELD_OUT, ANY, ANY,
	  "Share of this tag's held-out images with at least what the prompt asks for.",
	  "As eval/strict/TAG." },
	{ "eval/soft/", "Soft score", "", METRIC_HELD_OUT, ANY, ANY,
	  "Mean score of this tag's held-out images.", "As eval/strict/TAG." },
	{ "eval/low/", "Lower end", "", METRIC_HELD_OUT, ANY, ANY,
	  "Lower end of the 95 % interval of this tag's held-out score.", "As eval/low." },
	{ "eval/high/", "Upper end", "", METRIC_HELD_OUT, ANY, ANY,
	  "Upper end of the 95 % interval of this tag's held-out score.", "As eval/low." },
	{ "eval/unavailable", "Held-out images not scored", "images", METRIC_HEALTH, ANY, 0,
	  "Held-out images that some reward could not score.",
	  "0. Look in log.txt for the first reason; too many (eval.max_unavailable), and the evaluation "
	  "decides nothing." },

	/* ---- Rewards of the images that are trained on ---- */
	{ "reward/mean", "Reward", "", METRIC_REWARD, ANY, ANY,
	  "Mean weighted reward of the epoch's images, drawn by the old policy.",
	  "Noisy from step to step, because prompts differ; the trend should rise. Flat for many steps: a "
	  "higher optimizer.lr, or larger groups." },
	{ "reward/std", "Spread of the reward", "", METRIC_REWARD, ANY, ANY,
	  "Standard deviation of the reward over the epoch's images.",
	  "Near 0 there is nothing left to tell good from bad by: the reward is saturated, or the images "
	  "have become alike." },
	{ "reward/strict", "Exactly right", "", METRIC_REWARD, ANY, ANY,
	  "Share of the epoch's images that are exactly what their prompt asks for.",
	  "Compare it with eval/strict: the two should rise together." },
	{ "reward/drawn", "Reward of all drawn", "", METRIC_REWARD, ANY, ANY,
	  "Mean reward of all images that were drawn, of which prompts.draw then chose some.",
	  "This is the policy's own level; reward/mean is of the chosen ones." },
	{ "reward/images", "Images of a set", "images", METRIC_REWARD, ANY, ANY,
	  "Images of the epoch that are of a set of prompts, `reward/SET/images`.",
	  "Over many epochs the sets' shares are those of their weights (prompts.sets)." },
	{ "reward/unavailable", "Images not scored", "images", METRIC_HEALTH, ANY, 0,
	  "Images of the epoch that some reward could not score; they are left out.",
	  "0. The first reason is in log.txt. A judge that is overloaded wants a longer deadline or fewer "
	  "requests at a time." },
	{ "reward/left_out", "Left out", "rewards", METRIC_HEALTH, ANY, 0,
	  "How often a reward was left out of a whole group, because too few of its images were scored "
	  "(quorum).",
	  "0. As reward/unavailable." },
	{ "reward/", "Reward", "", METRIC_REWARD, ANY, ANY,
	  "One reward by itself, averaged over the epoch's images, before its weight.",
	  "With several rewards, see that none falls while another rises; weights, or advantage.combine: "
	  "normalised, balance them." },
	{ "histogram/reward", "Rewards of an epoch", "", METRIC_REWARD, ANY, ANY,
	  "How many of the epoch's images have which reward.",
	  "Mass should move upwards. All of it at one end means that the reward no longer tells images "
	  "apart." },

	/* ---- The loss ---- */
	{ "histogram/r", "Optimality r of an epoch", "", METRIC_LOSS, ANY, ANY,
	  "How many images have which r, the probability of being a good one, into which advantages are "
	  "turned.",
	  "Spread around 0.5. All at 0.5: rewards within groups are alike. All at 0 and 1: advantage.clip is "
	  "small." },
	{ "advantage/flat_groups", "Flat groups", "share", METRIC_LOSS, ANY, 0.5,
	  "Share of the prompts whose images all have the same reward; they teach nothing.",
	  "Below a half. More: larger groups (prompts.group_size), harder or easier prompts, or a finer "
	  "reward." },
	{ "advantage/r_mean", "Mean of r", "", METRIC_LOSS, 0.4, 0.6,
	  "Mean of r over the epoch: 0.5 when good and bad are balanced.",
	  "Near 0.5. Far from it, few images are very good or very bad: look at the histogram of the "
	  "reward." },
	{ "loss/policy", "Policy loss", "", METRIC_LOSS, ANY, ANY,
	  "The loss of the algorithm without the KL term, averaged over the step's pairs.",
	  "Its level says little, and it need not fall; sudden jumps do matter." },
	{ "loss/kl", "Distance from the base model", "", METRIC_LOSS, ANY, ANY,
	  "Mean squared difference between the velocities of the trained and of the base model (the KL term, "
	  "without its weight).",
	  "A slow rise is learning. A fast one goes before collapse: lower optimizer.lr, or raise the weight "
	  "of the KL term." },
	{ "loss/old_deviation", "Distance from the old policy", "", METRIC_LOSS, ANY, ANY,
	  "Mean squared difference between the velocities of the trained and of the old policy, which "
	  "samples.",
	  "Small beside loss/kl. If it grows, the images are of a policy long gone: lower policy.old_max or "
	  "optimizer.lr." },
	{ "loss/r_correlation", "Agreement with r", "", METRIC_LOSS, 0, ANY,
	  "Correlation between r and how much more the trained policy fits an image than its opposite "
	  "does.",
	  "Positive once the policy has moved. Negative for long: the update works against the reward; see "
	  "that the reward's sign is right." },
	{ "loss/error", "Matching error", "", METRIC_LOSS, ANY, ANY,
	  "Mean squared error of the velocity on the step's images.", "Roughly constant." },
	{ "loss/old", "Distance from the old policy", "", METRIC_LOSS, ANY, ANY,
	  "Mean squared difference from the old policy's velocity.", "As loss/old_deviation." },
	{ "loss/margin", "Margin", "", METRIC_LOSS, ANY, ANY,
	  "By how much the better image of a couple is preferred over the reference.",
	  "Above 0 and rising slowly. A large one means that the policy runs away from its reference." },
	{ "loss/right", "Couples told apart", "share", METRIC_LOSS, 0.5, ANY,
	  "Share of the couples whose better image has the larger margin.", "Above a half." },
	{ "loss/group", "Group sum", "", METRIC_LOSS, ANY, ANY,
	  "The group's sum of weighted errors, whose sigmoid weighs the update.",
	  "Near 0 at the start, then below." },
	{ "loss/weight", "Group weight", "", METRIC_LOSS, ANY, ANY, "That sigmoid, averaged over the groups.",
	  "Around a half. Near 0 the groups are already told apart." },
	{ "loss/stopped", "Stopped by the clip", "share", METRIC_LOSS, ANY, 0.5,
	  "Share of the images whose gradient the clip stops.",
	  "Small; much of it means that steps are too large." },
	{ "loss/ratio", "Likelihood ratio", "", METRIC_LOSS, 0.8, 1.2,
	  "Mean ratio of the likelihoods of a step under the trained and under the old policy.",
	  "Near 1. Further off, the steps are too large: lower optimizer.lr." },
	{ "loss/log_ratio", "Size of the log ratio", "", METRIC_LOSS, ANY, ANY,
	  "How far that ratio is from 1, as the size of its logarithm.", "Small, and not growing." },
	{ "loss/old_kl", "KL from the old policy", "", METRIC_LOSS, ANY, ANY,
	  "Estimate of the divergence from the old policy.", "Small, and not growing." },
	{ "loss/clipped_up", "Clipped above", "share", METRIC_LOSS, ANY, 0.5,
	  "Share of the steps whose ratio the clip stops on its way up.",
	  "A few per cent. Most of them: smaller steps." },
	{ "loss/clipped_down", "Clipped below", "share", METRIC_LOSS, ANY, 0.5,
	  "Share of the steps whose ratio the clip stops on its way down.", "As loss/clipped_up." },
	{ "loss/", "Algorithm's own", "", METRIC_LOSS, ANY, ANY, "A number that the algorithm itself writes.",
	  "See the head of its file in algorithms/." },

	/* ---- Gradient and policies ---- */
	{ "grad_norm", "Gradient norm", "", METRIC_POLICY, ANY, ANY,
	  "Euclidean norm of the adapter's gradient, before it is clipped to train.max_grad_norm.",
	  "Steady. Growing over many steps goes before collapse: lower optimizer.lr." },
	{ "lora_norm", "Adapter norm", "", METRIC_POLICY, ANY, ANY,
	  "Euclidean norm of what the adapter adds to the weights.",
	  "It rises, ever more slowly. A straight or steepening line late in a run: lower optimizer.lr, or "
	  "let it decay." },
	{ "lr", "Learning rate", "", METRIC_POLICY, ANY, ANY, "Learning rate of the step.",
	  "As optimizer.* says." },
	{ "old_eta", "Old policy kept", "share", METRIC_POLICY, ANY, ANY,
	  "How much of the old policy stays when it moves towards the trained one after the epoch; 1: it did "
	  "not move.",
	  "As policy.* says: from 0, on policy, to policy.old_max." },

	/* ---- Health ---- */
	{ "skipped", "Skipped steps", "steps", METRIC_HEALTH, ANY, 0,
	  "Steps skipped so far, because a loss or gradient was not finite.",
	  "0. With float16, use bfloat16 or float32; otherwise lower optimizer.lr and look at the rewards." },
	{ "rollbacks", "Returns to a checkpoint", "times", METRIC_HEALTH, ANY, 0,
	  "How often the run went back to a checkpoint after steps that were not finite.", "0. As skipped." },
	{ "health/x0_norm", "Size of the latents", "", METRIC_HEALTH, 0.5, 2,
	  "Root mean square of the sampled latents; near 1 where the model normalises them so.",
	  "It should stay near where it began. A steady rise shows as oversaturated images: raise the weight "
	  "of the KL term." },
	{ "health/diversity", "Diversity of a group", "", METRIC_HEALTH, 0.1, ANY,
	  "How far the latents of a group's images are from their mean, as a share of health/x0_norm; 0: all "
	  "images of a prompt are the same.",
	  "It falls as the model learns to obey. Falling to half of its start or further is mode collapse: "
	  "raise the weight of the KL term, or stop earlier." },
	{ "health/pixel_mean", "Brightness", "", METRIC_HEALTH, 0.05, 0.95,
	  "Mean of all pixels, 0 black and 1 white.",
	  "It should stay near where it began: drifting to either end is the usual form of collapse. Lower "
	  "optimizer.lr, or raise the weight of the KL term." },
	{ "health/pixel_saturated", "Saturated pixels", "share", METRIC_HEALTH, ANY, 0.5,
	  "Share of the colour values that are at 0 or at 255.",
	  "As at the start. A rise means ever harsher contrast." },

	/* ---- Time and memory ---- */
	{ "time/rollout", "Sampling", "s", METRIC_TIME, ANY, ANY,
	  "Seconds that the epoch's images took to be sampled and decoded, waiting for rewards left out.",
	  "Fewer rollout.steps, a larger rollout.batch, or a faster solver." },
	{ "time/reward_wait", "Waiting for rewards", "s", METRIC_TIME, ANY, ANY,
	  "Seconds that sampling was through and scores were still missing.",
	  "Small beside time/rollout, because scoring goes on meanwhile. Otherwise more threads, a faster "
	  "judge, or reward ranks." },
	{ "time/update", "Update", "s", METRIC_TIME, ANY, ANY,
	  "Seconds of forwards and backwards of the update, without the sum over ranks.",
	  "A larger train.micro_batch, or fewer of an image's noise levels (train.timestep_fraction)." },
	{ "time/all_reduce", "Summing over ranks", "s", METRIC_TIME, ANY, ANY,
	  "Seconds of the gradient's sum over ranks, with waiting for the slowest of them.",
	  "Small beside time/update. Otherwise one rank is slower than the others." },
	{ "time/checkpoint", "Checkpoint", "s", METRIC_TIME, ANY, ANY,
	  "Seconds of the checkpoints since the row before; only where there was one.",
	  "A larger checkpoint.every, or a faster disk." },
	{ "ranks/sampling_max", "Sampling, slowest rank", "s", METRIC_TIME, ANY, ANY,
	  "Seconds that the slowest rank sampled and decoded, waiting for nobody; with several ranks only, "
	  "as all of ranks/.",
	  "Near ranks/sampling_mean. Otherwise a rank's GPU or cores are slower, or shared with somebody." },
	{ "ranks/sampling_mean", "Sampling, mean of the ranks", "s", METRIC_TIME, ANY, ANY,
	  "The same, as the mean of all ranks.", "As ranks/sampling_max." },
	{ "ranks/reward_wait_max", "Waiting for rewards, slowest rank", "s", METRIC_TIME, ANY, ANY,
	  "Seconds that the scores of the slowest rank were missing when it had sampled all.",
	  "Near ranks/reward_wait_mean. Otherwise one rank's judge is slow or has trouble." },
	{ "ranks/reward_wait_mean", "Waiting for rewards, mean of the ranks", "s", METRIC_TIME, ANY, ANY,
	  "The same, as the mean of all ranks.", "As ranks/reward_wait_max." },
	{ "ranks/update_max", "Update, slowest rank", "s", METRIC_TIME, ANY, ANY,
	  "Seconds of the slowest rank's forwards and backwards, waiting for nobody.",
	  "Near ranks/update_mean. As ranks/sampling_max." },
	{ "ranks/update_mean", "Update, mean of the ranks", "s", METRIC_TIME, ANY, ANY,
	  "The same, as the mean of all ranks.", "As ranks/update_max." },
	{ "ranks/slowest", "Slowest rank", "", METRIC_TIME, ANY, ANY,
	  "Which rank took longest for the three phases together, from 0.",
	  "It should change from epoch to epoch. Always the same one, with ranks/waiting above a few per "
	  "cent: look at its machine." },
	{ "ranks/waiting", "Waiting for the slowest", "share", METRIC_TIME, ANY, 0.15,
	  "Share of the ranks' time in which they wait for the slowest rank of the phase.",
	  "A few per cent. More: see which of ranks/*_max stands out, and ranks/slowest." },
	{ "scoring/seconds/", "Latency of a reward", "s", METRIC_TIME, ANY, ANY,
	  "Mean seconds of the reward's calls since the row before, over all ranks; not with ranks.reward.",
	  "It hardly matters while time/reward_wait is small." },
	{ "scoring/longest/", "Longest call of a reward", "s", METRIC_TIME, ANY, ANY,
	  "Seconds of the longest of those calls.",
	  "A few times the mean. Far more: the judge queues or restarts; a `deadline` bounds it." },
	{ "scoring/unavailable/", "Scores not had", "", METRIC_TIME, ANY, 0,
	  "Images of the epoch that the reward gave no score.",
	  "0. Otherwise log.txt says why; images without a reward are not trained." },
	{ "scoring/given_up/", "Calls given up", "", METRIC_TIME, ANY, 0,
	  "Calls of the reward that passed its deadline, since the program was started.",
	  "0. A longer `deadline`, a smaller `batch`, or a judge that hangs." },
	{ "scoring/restarts/", "Starts of a reward's process", "", METRIC_TIME, ANY, 0,
	  "How often the process of an `exec` reward had to be started again.",
	  "0. What it wrote to standard error says why." },
	{ "time/eval", "Evaluation", "s", METRIC_TIME, ANY, ANY, "Seconds of the evaluation.",
	  "A larger eval.every, or fewer eval.images_per_prompt." },
	{ "time/train_total", "Training so far", "s", METRIC_TIME, ANY, ANY,
	  "Seconds of all epochs so far, over all resumes; evaluations are left out.", "" },
	{ "time/device_total", "Device time so far", "s", METRIC_TIME, ANY, ANY,
	  "Seconds summed over the devices: GPUs, or on a CPU the cores' busy time.", "" },
	{ "memory/peak", "Memory of tensors", "GiB", METRIC_TIME, ANY, ANY,
	  "The most memory that tensors of rank 0 took, up to here.",
	  "Level after the first steps. If it keeps growing, please report it." },
	{ "memory/reserved", "Memory held", "GiB", METRIC_TIME, ANY, ANY,
	  "The same with what a GPU's allocator keeps for the next tensors.",
	  "Below what the GPU has; smaller batches, or train.gradient_checkpointing." },
	{ "compute/forwards", "Forwards", "", METRIC_TIME, ANY, ANY,
	  "Forwards of the transformer by an image in the epoch, sampling and update together; a backward "
	  "counts 1.135.",
	  "For comparing algorithms at equal cost." },

	/* ---- Where it stands ---- */
	{ "step", "Step", "", METRIC_PLACE, ANY, ANY, "Optimizer steps so far.", "" },
	{ "epoch", "Epoch", "", METRIC_PLACE, ANY, ANY, "Epochs so far: a rollout and its update each.", "" },
	{ "images", "Images", "", METRIC_PLACE, ANY, ANY, "Images sampled for training so far.", "" },
	{ "stage", "Stage", "", METRIC_PLACE, ANY, ANY, "Which stage of the experiment runs, from 1.", "" },
	{ NULL, NULL, NULL, METRIC_PLACE, NAN, NAN, NULL, NULL },
};

static const struct metric_info *find(const char *name)
{
	const struct metric_info *below = NULL;

	for (const struct metric_info *m = metric_table; m->name; m++) {
		if (!strcmp(m->name, name))
			return m;
		if (text_ends(m->name, "/") && text_starts(name, m->name) &&
		    (!below || strlen(m->name) > strlen(below->name)))
			below = m;
	}
	return below;
}

/* eval/SET/strict is what eval/strict is, of one set of prompts; and so is reward/SET/mean. */
const struct metric_info *metric_find(const char *name)
{
	const struct metric_info *m = find(name);
	bool of_reward = text_starts(name, "reward/");
	const char *set = of_reward || text_starts(name, "eval/") ? strchr(name, '/') + 1 : "",
		   *rest = strchr(set, '/');

	if (!rest || (m && !of_reward))
		return m;
	char *whole = mem_printf("%.*s%s", (int)(set - name), name, rest + 1);
	m = find(whole);
	free(whole);
	return m;
}

/* A name as the page shows it: what stands for a tag, a reward or an algorithm's word. */
static const char *placeholder(const struct metric_info *m)
{
	if (!text_ends(m->name, "/"))
		return "";
	return text_starts(m->name, "eval/") && strcmp(m->name, "eval/reward/") ? "TAG" : "NAME";
}

static void add_range(struct text *out, const struct metric_info *m)
{
	if (!isnan(m->low) && !isnan(m->high))
		text_printf(out, "%g to %g", m->low, m->high);
	else if (!isnan(m->high))
		text_printf(out, m->high == 0 ? "0" : "up to %g", m->high);
	else if (!isnan(m->low))
		text_printf(out, "from %g", m->low);
}

void metric_docs(struct text *out)
{
	text_add(
	    out,
	    "# Metrics\n\nMade by `contraflow config metrics`; a test checks that it is current. Each line "
	    "of "
	    "`metrics.jsonl` is a JSON object: one of every epoch that made a step, and one of every "
	    "evaluation, with the number of the step that it comes after. TensorBoard has the same numbers, "
	    "with these descriptions, and `contraflow report RUN` draws them. A number that could not be had "
	    "is `null`. \"Normal\" is where nothing needs to be looked at; it is a rule of thumb, and the "
	    "start of your own run is the better measure. With `prompts.sets`, `eval/SET/...` and "
	    "`reward/SET/...` "
	    "are the same numbers of one set's prompts alone; `eval/soft/SET` is each set's held-out score, "
	    "and "
	    "`eval/soft` their mean by the sets' weights.\n");
	for (int s = 0; s < METRIC_SECTIONS; s++) {
		text_printf(
		    out,
		    "\n## %s\n\n| name | unit | what it is | normal | what to look for, and what to do |\n"
		    "| --- | --- | --- | --- | --- |\n",
		    metric_sections[s]);
		for (const struct metric_info *m = metric_table; m->name; m++) {
			if ((int)m->section != s)
				continue;
			text_printf(out, "| `%s%s` | %s | %s | ", m->name, placeholder(m), m->unit,
				    m->meaning);
			add_range(out, m);
			text_printf(out, " | %s |\n", m->look);
		}
	}
}
