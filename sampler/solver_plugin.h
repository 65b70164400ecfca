/*
 * solver_plugin.h -- a solver as a shared library; it needs this file alone and nothing of contraflow's.
 *
 *     cc -shared -fPIC -o mine.so mine.c      # examples/solver_midpoint.c, examples/solver_flow_sde.c
 *     rollout: {solver: ./mine.so}            # eval.sampler as well, and --solver ./mine.so
 *
 * A step carries the latents x from noise level sigma[i] down to sigma[i + 1] along dx/dsigma = v(x, sigma);
 * x = (1 - sigma) x0 + sigma noise, v = noise - x0.  The library never sees a tensor: it says which sums of
 * them a step is, and the program adds them up, on the CPU or a GPU.  Noise is a matter of the program, too:
 * unit normals that depend on seed, epoch, sample and step alone, so neither the number of processes nor the
 * batch size changes an image.
 *
 * The library exports contraflow_solver(), whose struct has one of two functions:
 *     law   for solvers of one velocity a step and no memory: what they make is normal, and training
 *           algorithms that need the probability of a step can use them
 *     step  for all others: several velocities a step (midpoint, Heun, Runge-Kutta), sums of earlier steps
 *           (multistep methods), or both
 * Both must be functions of their arguments: the program asks for every step once before the run, at eta and
 * at 0, and refuses what is not finite, what reads a tensor that is not there, and noise where eta is 0; then
 * again when it takes the step.  `out` is all zero before.  They return 0; or -1, with one line in out->why.
 *
 * Structs of later versions grow at their ends; a library keeps working when the program is newer.
 */
#ifndef CONTRAFLOW_SOLVER_PLUGIN_H
#define CONTRAFLOW_SOLVER_PLUGIN_H

#define CONTRAFLOW_SOLVER_ABI        1
#define CONTRAFLOW_SOLVER_VELOCITIES 4 /* in a step, at most */
#define CONTRAFLOW_SOLVER_MEMORIES   4

/* What a step is to be found for. */
struct contraflow_levels {
	int steps;
	const double *sigma; /* steps + 1 noise levels, falling from 1 (or below) to sigma[steps] = 0 */
	double eta;          /* how much noise is wanted in this step; 0: none */
};

/* next = x * x_i + v * v(x_i, sigma[i]) + noise * z, z unit normals; noise >= 0. */
struct contraflow_law {
	double x, v, noise;
	char why[160]; /* NUL-terminated */
};

/* A weighted sum of the tensors at hand in a step. */
struct contraflow_sum {
	double x;                                  /* the latents that the step begins with */
	double v[CONTRAFLOW_SOLVER_VELOCITIES];    /* the velocities of this step so far */
	double memory[CONTRAFLOW_SOLVER_MEMORIES]; /* what the step before kept */
	double noise; /* this step's unit normals: one tensor, the same in all sums */
};

/* Velocity k = 0 .. velocities - 1 is v(at[k], sigma[k]); then comes next; then memory[0 .. memories - 1] are
 * what the step after this one finds, and nothing else of before. */
struct contraflow_step {
	int velocities;
	double sigma[CONTRAFLOW_SOLVER_VELOCITIES]; /* any level in [0, 1] */
	struct contraflow_sum at[CONTRAFLOW_SOLVER_VELOCITIES];
	struct contraflow_sum next;
	int memories;
	struct contraflow_sum memory[CONTRAFLOW_SOLVER_MEMORIES];
	char why[160]; /* NUL-terminated */
};

struct contraflow_solver {
	int abi;    /* CONTRAFLOW_SOLVER_ABI */
	double eta; /* where the configuration says `auto`; 0: the solver adds no noise */
	int (*law)(const struct contraflow_levels *l, int i, struct contraflow_law *out);
	int (*step)(const struct contraflow_levels *l, int i, struct contraflow_step *out);
};

const struct contraflow_solver *contraflow_solver(void);

#endif
