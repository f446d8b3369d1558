"""What must hold of an engine and of what was asked of it, at every moment and at rest."""

import shutil
import sys

import numpy as np

from backend.engine.inbox import Submit
from mlx_cache.tree import common_prefix
from tests.engine.machine.alone import alone
from tests.engine.machine.asked import Asked
from tests.engine.machine.asking import Asking
from tests.engine.machine.kept import check_stored, forgotten
from tests.engine.machine.subject import MOST_ROUNDS
from tests.mlx_cache.oracle import check_consistent


class Checked(Asking):
    """One that is looked at."""

    def teardown(self) -> None:
        if not hasattr(self, "engine"):
            return
        try:
            if sys.exc_info()[0] is None and self.engine.session is not None:
                self.rest()
                self._ask_again()
            self.count()
            self.totals.update({f"fault {kind}": n for kind, n in self.planting.happened.items()})
        finally:
            self.patched.undo()
            self.engine.close()
            for computed in (one for one in self.computed if one.over and not one.task.cancelled()):
                computed.task.exception()  # nobody asks any more
            shutil.rmtree(self.folder, ignore_errors=True)

    def _ask_again(self) -> None:
        """What nobody disturbs any more is answered exactly."""
        self.planting.disarm()
        wishes = list(dict.fromkeys(asked.wish for asked in self.asked))
        for wish in wishes[-3:]:
            self.ask(wish, None)
        self.rest()
        assert all(asked.end is not None for asked in self.asked[len(self.asked) - len(wishes[-3:]) :])

    def rest(self) -> None:
        """Until everybody has an end; then each is right, and nothing is left."""
        self.squeezed = False
        for _ in range(MOST_ROUNDS):
            if all(asked.over for asked in (*self.asked, *self.computed)) and not self.session.busy:
                break
            self.engine.round()
        else:
            raise AssertionError("somebody has no end")
        self.engine.round()
        self.check_at_rest()

    def check_answers(self) -> None:
        self._take_failures()
        now, planting = self.engine.clock.now, self.planting
        for asked in self.asked:
            assert asked.ends <= 1 and (not asked.exact or asked.right.text.startswith(asked.text)), asked
            if asked.over and not asked.checked:
                asked.checked = True
                lost, may_lose = asked.name in planting.lost, asked.name in planting.may_lose
                asked.check(now, lost=lost, may_lose=may_lose, hit=self._hit(asked))
        exact = self.load.stored_bits is None
        for computed in (one for one in self.computed if one.over and not one.checked):
            computed.check(now, lost=computed.name in planting.lost, exact=exact)

    def _hit(self, asked: Asked) -> int:
        """Tokens that the prompt cache may have had for it: of what its tenant had asked when it came, or since."""
        since = self.seen.get((self.load.model, asked.wish.tenant), ())
        # Where something failed it may have begun anew, from what it had stored itself.
        others = [told for told in (*asked.known, *since) if told is not asked.tokens or self.planting.happened]
        return max((common_prefix(asked.tokens, told) for told in others), default=0)

    def check_rows(self) -> None:
        session = self.engine.session
        if session is None:
            return
        rows = [*session.admission.waiting, *session.room.rows]
        assert len({id(row) for row in rows}) == len(rows)
        owed = {asked.name for asked in (*self.asked, *self.computed) if not asked.over and not asked.aborted}
        lost = owed - {row.request.request_id for row in rows} - self._on_their_way()
        assert not lost, (lost, [computed for computed in self.computed if computed.name in lost])
        assert session.prefix.nbytes <= min(session.prefix.most_bytes, session.budget.total)
        # What does not give way is what rows leave out for it; of windows it may be more.
        cache, named = session.prefix._store.cache, session.room.named()
        windows = bool(session.budget.cost.windows)
        assert windows or cache.nbytes <= max(cache.max_bytes, named), (cache.nbytes, cache.max_bytes, named)

    def _on_their_way(self) -> set[str]:
        commands = [*self.engine._thread._taken, *self.engine._thread._inbox._commands]
        return {command.request.request_id for command in commands if isinstance(command, Submit)}

    def check_at_rest(self) -> None:
        """Each has a right end, and nothing is left."""
        session = self.session
        queue = dict(self.engine.handle.info().queue)
        for figure in ("in_flight", "waiting", "prefilling", "decoding", "storing", "live_kv_bytes"):
            assert queue[figure] == 0, queue
        assert not session.room.rows and session.room.projected() == 0
        assert not session.decoding.moving and not session.decoding.storing.rows and session.speculating.nbytes() == 0
        self.engine.rest_disk()
        check_consistent(session.prefix._store.cache)
        assert not list(self.folder.rglob("*.tmp")) + list(self.folder.rglob(".tmp*"))
        self.check_answers()
        assert not session.pooled.rows and all(row.caches is None for row in self.pooled if row.stream.ended)
        self.planting.quiet = True
        self._check_kept()
        self.planting.quiet = False

    def _check_kept(self) -> None:
        """The prompt cache has what it must, and nothing that it must not."""
        self._take_failures()
        self.names.check(self.session)
        now, sure = self.engine.clock.now, self.names.sure and not self.cleared
        own = [asked for asked in self.asked if asked.load == self.loads]
        for asked in own:
            asked.over_at = asked.over_at or now
        gone = forgotten(self.session, own, self.load, now, sure=sure)
        self._forget(gone)
        if self.planting.happened["cache"]:
            return
        for asked in own[-2:]:
            self._check_stored(asked)

    def _check_stored(self, asked: Asked) -> None:
        model, tenant = self.load.model, asked.wish.tenant
        check_stored(self.session, self.load, self.family, alone(self.paths[model]), asked.tokens, tenant)

    def _forget(self, gone: set[tuple[str, str]]) -> None:
        """What conversations left that are gone can be hit by nobody."""
        for tenant, talk in gone:
            left = [
                one for one in self.asked if (one.load, one.wish.tenant, one.wish.talk) == (self.loads, tenant, talk)
            ]
            place, ids = (self.load.model, tenant), {id(one.tokens) for one in left}
            for told in self.told:
                told[place] = [tokens for tokens in told.get(place, ()) if id(tokens) not in ids]
            if self.names.sure:
                for one in left:
                    self._check_gone(one)

    def _check_gone(self, one: Asked) -> None:
        tenant, store = one.wish.tenant, self.session.prefix._store
        others = [*self.seen.get((self.load.model, tenant), ()), *self._of_everybody()]
        most = max((common_prefix(one.tokens, told) for told in others), default=0)
        key, asked = store.key_of(tenant), np.append(one.tokens, np.int32(1))
        found = max(store.cache.match_length(key, asked), store.cache.match_disk(key, asked))
        assert found <= most, (one, found, most)
