import fcntl,struct,os,select,subprocess,sys
fd=os.open('/dev/net/tun',os.O_RDWR)
mode=sys.argv[1]
TUNSETIFF=0x400454ca
fcntl.ioctl(fd,TUNSETIFF,struct.pack('16sH22x',b't0',0x1001 if mode=='tun' else 0x1002))
subprocess.check_call(['ip','addr','add','10.9.0.1/24','dev','t0']); subprocess.check_call(['ip','link','set','t0','up'])
def csum(b):
    if len(b)%2: b+=b'\0'
    s=sum(struct.unpack('!%dH'%(len(b)//2),b))
    while s>>16: s=(s&0xffff)+(s>>16)
    return ~s&0xffff
def ip(proto,payload,src=b'\x0a\x09\0\x02',dst=b'\x0a\x09\0\x01'):
    h=struct.pack('!BBHHHBBH4s4s',0x45,0,20+len(payload),1,0,64,proto,0,src,dst)
    return h[:10]+struct.pack('!H',csum(h))+h[12:]+payload
def echo(n):
    m=struct.pack('!BBHHH',8,0,0,7,n)+b'payload'
    return m[:2]+struct.pack('!H',csum(m))+m[4:]
me=b'\2\0\0\0\0\7'
def rd(want):
    while True:
        r,_,_=select.select([fd],[],[],2)
        if not r: return print('nothing')
        b=os.read(fd,2000)
        if want(b): return b
if mode=='tun':
    os.write(fd,ip(1,echo(1)))
    b=rd(lambda b:b[0]>>4==4 and b[9]==1); print(len(b),b[20],b[12:20].hex(),b[28:])
    os.write(fd,ip(17,struct.pack('!HHHH',1000,2000,8,0)))
    b=rd(lambda b:b[0]>>4==4 and b[9]==1); print(len(b),b[20:22].hex(),b[28:40].hex())
else:
    arp=struct.pack('!HHBBH6s4s6s4s',1,0x800,6,4,1,me,b'\x0a\x09\0\x02',b'\0'*6,b'\x0a\x09\0\x01')
    os.write(fd,b'\xff'*6+me+b'\x08\x06'+arp)
    b=rd(lambda b:b[12:14]==b'\x08\x06' and b[20:22]==b'\0\2'); mac=b[6:12]; print(len(b),b[:6].hex(),b[28:32].hex(),b[38:42].hex())
    os.write(fd,mac+me+b'\x08\0'+ip(1,echo(1)))
    b=rd(lambda b:b[12:14]==b'\x08\0'); print(len(b),b[34],b[26:34].hex())
os.close(fd)
print(subprocess.run(['ip','link','show','t0'],capture_output=True,text=True).stderr.strip())
