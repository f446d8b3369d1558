import math

class Contest:
    def __init__(self, n, *, horizon=8.0, z=1.0, eps=0.003, guard=True):
        self.n=n; self.leader=0
        self.horizon=horizon; self.z=z; self.eps=eps; self.guard=guard
        self.lead=[0.0]*n; self.var=[0.0]*n
        self.balance=0.0; self.total=0.0
        self.switches=0; self.barred=False
        self.log=[]
    def count(self, hits, served):
        base=hits[0]
        for e in range(1,self.n):
            d=hits[e]-base
            self.lead[e]+=d; self.var[e]+=d*d
        self.balance+=served-base
        self.total+=base
    def fade(self, turnover):
        f=math.exp(-turnover/self.horizon)
        for e in range(1,self.n):
            self.lead[e]*=f; self.var[e]*=f
    def choose(self):
        new=self.leader
        if self.guard and self.balance < -self.eps*self.total:
            self.barred=True
        elif self.balance >= 0 or self.balance> -self.eps/3*self.total: self.barred=False
        if self.barred: new=0
        else:
            best=max(range(1,self.n), key=lambda e:self.lead[e])
            if self.leader==0:
                if self.lead[best] > self.z*math.sqrt(self.var[best]): new=best
            else:
                if self.lead[self.leader]<=0: new=0
                elif self.lead[best]-self.lead[self.leader] > self.z*math.sqrt(self.var[best]): new=best
        if new!=self.leader:
            self.switches+=1; self.leader=new
