"""The words themselves: what `lexicon` knows of person descriptions, by group and by kind of word.

Everything is lower case and singular where there is a singular; plurals are derived. To add words
for a domain of your own, use the tagger's ``words`` setting, not this file.
"""

from __future__ import annotations


def wordset(text: str) -> frozenset[str]:
    """Split a list of words that is easier to read as text."""
    return frozenset(text.split())


COLOURS = wordset(
    """black white red green blue yellow orange purple pink brown gray grey navy beige tan
    khaki maroon burgundy teal turquoise cyan violet lavender magenta gold golden silver
    cream ivory olive blonde blond brunette camel charcoal peach coral mustard nude chestnut
    auburn aqua indigo lilac crimson scarlet mint rose plum rust bronze copper salmon
    fuchsia wine"""
)

THINGS: dict[str, str] = {
    "person": """man woman boy girl lady guy gentleman male female person people pedestrian kid
        child teenager teen student individual adult elder youth youngster toddler baby worker
        cyclist rider commuter tourist shopper walker runner jogger human mother father friend
        men women children persons ladies somebody's guys man's woman's lad gal dude officer
        policeman policewoman waiter passenger figure employee businessman businesswoman
        soldier guard cop nurse doctor chef player athlete hiker skater skateboarder
        bicyclist motorcyclist traveller traveler customer client vendor staff clerk driver
        dancer chap bloke fella grandma grandpa grandmother grandfather mom mum dad parent
        son daughter brother sister husband wife infant schoolboy schoolgirl folk folks
        resident passerby passersby bystander miss grownup schoolchild schoolchildren
        civilian companion""",
    "head": """head face ear eye nose mouth chin forehead neck beard mustache moustache goatee
        stubble cheek lip glasses glass eyeglasses eyeglass sunglasses spectacles goggles mask
        facemask hat cap beanie helmet visor hood headphone headphones earphone earphones earbuds
        headset headscarf hijab turban bandana headband hairband hairpin baldhead makeup beret
        fedora burqa veil brim smile
        headwear headgear skullcap bonnet kippah keffiyeh durag crown tiara eyewear eyebrow
        eyelash jaw jawline teeth tongue whisker earplug earpiece airpods respirator frame
        spectacle""",
    "hair": """hair ponytail bun braid pigtail pigtails bangs fringe haircut hairstyle dreadlocks
        afro curl curls hairline hairdo mohawk cornrows plait tress sideburns ponytails bob
        highlights updo topknot buzzcut mullet pompadour locks scrunchie barrette wig
        undercut""",
    "upper": """shirt tshirt t-shirt tee tees top blouse jacket coat overcoat raincoat windbreaker
        sweater sweatshirt hoodie hoody jumper cardigan vest waistcoat undershirt turtleneck polo
        blazer suit dress gown sundress tunic parka anorak trenchcoat poncho camisole bra robe
        uniform sportswear tracksuit jumpsuit outerwear outfit clothes clothing clothe garment
        costume apparel attire cloak shawl pullover jersey tank romper bodysuit sleeve collar
        pocket zipper button lapel cuff neckline hem shoulder arm hand elbow forearm back chest
        torso waist stomach belly breast finger wrist body fist palm knitwear underwear
        overcoats fleece scrubs kimono overshirt shirts cape apron
        henley bolero kaftan kurta sari saree cheongsam qipao hanfu tux tuxedo tanktop
        halter corset bikini swimsuit swimwear leotard onesie pajamas pyjamas nightgown
        coverall coveralls workwear drawstring hemline waistline abdomen midriff bust bicep
        skin gilet shacket puffer bomber bib toggle epaulettes windcheater sweatsuit
        undershirts shrug tabard smock""",
    "lower": """pants pant trousers trouser jeans jean shorts slacks leggings legging skirt
        miniskirt skort tights tight stocking stockings pantyhose chinos sweatpants joggers capris
        culottes overalls overall dungarees bottoms trunks leg knee thigh ankle calf calves hip
        khakis corduroys bloomers sweatpant pantsuit
        jeggings breeches kilt sarong palazzos bermudas boxers underpants waistband crotch
        shin buttocks lap sweats cargos hosiery fishnets kneepad trackpants trackies
        hotpants denims""",
    "footwear": """shoe sneaker boot sandal slipper trainer loafer heel flat pump stiletto flops
        flipflop flipflops clog footwear sock foot feet toe sole shoelace lace moccasin
        oxford brogue mule wellies cleats
        crocs croc espadrilles espadrille uggs galoshes gumboots wellingtons skates
        rollerblades plimsolls slides footgear insole flip-flop flip-flops thongs""",
    "carried": """backpack rucksack knapsack schoolbag satchel handbag purse tote briefcase
        suitcase luggage wallet pouch clutch phone cellphone smartphone mobile iphone camera laptop
        book notebook magazine newspaper folder document paper umbrella parasol cane
        cigarette coffee drink food fruit toy bear racket racquet ball frisbee skateboard
        flower bouquet guitar tablet ipad computer trolley basket strap bagpack
        fannypack pack messenger stick crutch sack parcel package snack bags
        duffel duffle holdall pizza sandwich burger vegetable bread milk tea beer doll
        balloon kite broom mop shovel tool toolbox ladder microphone radio ipod charger
        passport ticket map envelope clipboard notepad pen bat club surfboard pillow blanket
        towel groceries gift present crate carton cardboard haversack bumbag instrument
        violin case flask thermos tumbler device gadget bookbag camcorder tripod""",
    "accessory": """scarf belt necklace bracelet ring earring watch wristwatch tie necktie bowtie
        glove mitten lanyard badge card tag pin brooch chain pendant jewelry jewellery wristband
        armband bangle suspenders sash kerchief tattoo keychain key
        cravat stole anklet beads smartwatch buckle harness holster hairclip choker locket
        medal nametag muffler neckerchief mitt piercing""",
    "scene": """street road sidewalk pavement path crosswalk crossing building wall door window
        shop store market mall station stair stairs staircase escalator step floor ground grass
        lawn park tree bush fence bench chair table car bus van truck taxi bicycle bike motorcycle
        motorbike scooter moped cart stroller pram wheelchair train subway railing pole sign lamp
        lobby hallway corridor room office school campus playground court field beach water sea
        sand snow rain sky bridge ramp parking lot city square plaza garden entrance gate dog cat
        pet leash house home corner alley curb kerb platform sidewalks intersection vehicle
        shadow puddle airport hall kitchen wood woods forest river mountain tile brick banner
        barrier counter shelf rack runway stage court
        terminal lounge elevator cafe restaurant supermarket lane highway driveway walkway
        pathway footpath garage alleyway tunnel dock pier deck balcony patio terrace porch
        yard backyard courtyard church tower hill lake pond fountain statue poster billboard
        screen television sofa couch bed mirror rug carpet curtain flag hydrant bin trashcan
        dumpster kiosk booth stall tent plant hedge rock rail guardrail handrail column
        pillar lamppost streetlight streetlamp tram tricycle rickshaw ebike horse bird puppy
        roadside roadway trail doorway storefront shopfront facade bollard cone seat""",
    "": """stripe logo letter letters lettering word writing text pattern print graphic picture
        dot spot line band trim check plaids square flowers emblem number symbol design
        decoration star heart ribbon bow patch fur lining tassel ruffle frill sequin
        bead hole embroidery cartoon slit seam hems piping checks
        graphics insignia crest initials slogan inscription strip panel block accent detail
        trimming edging border motif pinstripes stud stain mark marking rip tear stitching
        numeral""",
}
"""Nouns by group. Those under "" sit on something else and take the group of what came before."""

CONTAINERS = {
    "carried": "bag bottle cup can box mug jar bowl plate tray bucket",
}

LISTS: dict[str, str] = {
    "D": """a an the his her their my your its our this these those that some another each both
        every either all two three four five several many few one""",
    "A": """short long big large small little tiny huge tall thick thin slim slender skinny fat
        heavy heavyset overweight chubby stocky muscular young old older younger elderly aged
        middle teenage adolescent asian african american caucasian european indian
        chinese dark light bright pale deep pure plain solid vivid faded neutral dull neon
        fluorescent pastel striped stripped stripy stripey woolly plaid checked checkered
        chequered patterned printed
        floral dotted polka spotted hooded sleeved sleeveless haired colored coloured collared
        buttoned unbuttoned zipped unzipped open closed loose tight baggy fitted fitting oversized
        wide narrow slimfit casual formal sporty sports sport athletic fashionable modern new
        ripped torn worn distressed washed rolled cropped pleated ruffled knitted knit quilted
        padded puffy furry fluffy fuzzy hairy curly wavy straight bald balding thinning receding
        messy neat shaggy shiny glossy matte transparent sheer sleek soft warm left right upper
        lower front rear inner outer single double high low medium mid full half empty dirty clean
        wet dry electric shared rimmed framed pointed strappy laced
        crossbody strapless backless crew round vneck
        same other different similar matching multicolored multicolour colourful
        colorful reflective military pretty beautiful handsome healthy average
        bare naked nice good bearded bespectacled petite fair skinned legged
        wedge chunky distinctive whole
        visible asymmetric asymmetrical stylish traditional foldable
        disposable surgical toed heeled soled foreign bulky slung mini maxi midi
        broad brimmed trimmed lined stained opaque stuffed decorated embroidered braided
        permed dyed bleached tinted metallic thickset burly lanky lean strong weak own
        overhead sized shaped cuffed tailored tiered wrinkled parked public crowded busy
        pregnant lightweight quarter
        blurry blurred grainy slight curvy plump obese built shaved shaven unshaven freckled
        tanned frizzy spiky gelled slicked combed brushed layered gathered fringed beaded
        sequined studded crocheted woven ribbed waterproof insulated roomy boxy slouchy
        flowy snug frayed tattered geometric vintage trendy elegant smart fancy simple
        senior mature frontal backward frilly ruched stretchy elastic""",
    "R": """very quite rather fairly slightly extremely really too mostly somewhat almost nearly
        relatively completely partially mainly possibly probably maybe likely""",
    "M": """denim leather cotton wool woolen woollen silk linen suede velvet satin nylon polyester
        canvas rubber plastic metal wooden corduroy tweed flannel mesh tartan camouflage
        camo leopard zebra animal paisley argyle gingham houndstooth herringbone chiffon fabric
        cashmere straw patent cloth down puffer trench bomber pea duffel duffle baseball basketball
        football soccer tennis golf track yoga cargo jogger pencil swim gym flip cell teddy tile
        laptop messenger bermuda hawaiian varsity motor biker denims paper school business work
        safety identity shopping travel grocery fanny chino harem nike adidas puma converse
        neck upperbody crewneck snowboard button zip rain snow ankle shoulder waist knee thigh calf
        hip floor wrist bucket bowl""",
    "B": """color colour colors colours style length direction side
        way background foreground front bottom middle center centre end edge part area rest
        twenties thirties forties fifties sixties seventies teens age build height weight size
        look looks appearance posture position view angle photo photograph image
        shot closeup video surveillance distance time day night motion
        walk stroll ride bit lot hurry mood manner fashion shape fit thing
        things stuff gender upperclothes hobby action pose state case shade tone hue one's
        s 20s 30s 40s 50s 60s self lens viewer eyesight gesture attitude speed pace stance
        conversation call selfie none yes contrast contrasting material texture crook""",
    "Q": "flight pair pairs piece pieces set group couple type kind sort bunch stack pile crowd",
    "V": """wear wears wearing wore has have had having hold holds holding held carry
        carries carrying carried walk walks walking walked stand stands standing stood sit sits
        sitting sat run runs running ran ride rides riding rode push pushes pushing pushed pull
        pulls pulling pulled look looks looking looked face faces facing faced take takes taking
        took make makes making made use uses using used talk talks talking put puts putting
        move moves moving moved cross crosses go goes going went come comes coming
        came turn turns turning turned bend bends bending bent lean leans leaning leaned rest rests
        resting keep keeps keeping kept get gets getting got show shows showing shown match matches
        cover covers covering covered hang hangs hanging hung tie ties tied tying drape drapes
        draped reach reaches reaching fall falls falling fell extend extends extending wrap
        wraps wrapped dressed clad bowing raising raise
        raises raised lift lifts lifting lifted drag drags dragging dragged touch touches touching
        play plays playing read reads reading smoke smokes smoking drinking eat eats
        eating texting wave waves waving swing swings swinging swung point points
        pointing stepping stop stops stopped wait waits waiting follow follows
        following see sees seen seeing checking adjust adjusts adjusting display displays
        feature features featuring include includes including consist consists consisting
        paired combine combined do does doing did don didn could may might will
        would should must let lets tuck tucked tucking fold folded folding fasten fastened
        styled pass passes passing passed grab grabs grabbing clutches
        clutching grip grips gripping bring brings bringing lead leads leading poses posing
        smiling stare stares staring strolling strolls stride strides striding
        jog jogs jogging heading leave leaves leaving enter enters entering
        climb climbs climbing ascend descending descend descends place placed places
        sporting donning dons dangle dangles dangling accompany
        accompanied accompanies accompanying watching speak speaks speaking listen listening
        listens lay lays laying lie lies lying kneel kneels kneeling squat squats squatting jump
        jumps jumping opens opening closes closing surround surrounded
        attached located lit filled based know known want wants ends start starts
        begin begins expose exposes exposed exposing reveal reveals revealing hit hits
        sling slings""",
    "b": """is are was were be been being am isn seem seems seemed appear appears appeared
        remains 're""",
    "P": """w/ in on with at to from by for over under underneath beneath below above behind beside
        besides near between among through across along against around about into onto upon down
        up off out inside outside toward towards past during as like next while when where who
        whom which whose because but so if then than also forward forwards backward backwards away
        there here together alone still just only ahead besides amid amidst within
        after before via per along alongside opposite atop halfway apart""",
    "I": "of",
    "W": """he she it they him them himself herself itself themselves i you we us me who what
        someone somebody anyone something anything everything nothing everyone mine hers theirs
        others it's he's she's everybody nobody""",
    "&": "and & + &amp; plus n",
    "o": "or nor",
    "Z": """w/o no not without n't never neither nt cannot lack lacks lacking any hardly dont doesnt
        isnt""",
    "S": "'s ’s â€™s â\x80\x99s",
    "_": "Â â &nbsp; &quot; &#39; arafed araffe araffed please well etc eg ie um uh",
}

BODY = wordset(
    """hand arm shoulder leg knee foot wrist ear eye side elbow ankle thigh hip hands arms
    shoulders legs knees feet wrists ears eyes forearm cheek sleeve pocket"""
)
"""Nouns that left and right can belong to; before others they are directions."""

NOUN_OR_VERB = wordset("tie ties watch ring rings face faces dress head heads")
"""Nouns that are also verbs; the tagger decides by their neighbours."""

ACTION_MODIFIERS = wordset(
    """running walking hiking jogging training riding shopping swimming bathing sleeping
    fishing working cycling skating climbing dancing riding matching wading sporting boxing
    traveling travelling sewing skiing standing flowing thinning receding sweat"""
)
"""Words in -ing that name a kind of thing ("running shoes") rather than an action."""

ACTION_THINGS = wordset(
    """shoe shoes boot boots sneaker sneakers trainer trainers pants pant short shorts jacket
    gear suit cap bag bags stick cart trunks tights leggings shirt vest trousers glasses
    goggles pole poles cart trolley bottoms top sandals heels uniform hat gloves"""
)
"""What "running", "shopping" and the like can modify without an article before them."""

BARE_IDIOMS = frozenset({"hand", "foot", "hands", "feet", "home", "school", "work", "people's"})
"""Nouns that name nothing in particular without an article: on foot, in hand."""

COLOUR_BASE = {
    "grey": "gray",
    "golden": "gold",
    "blond": "blonde",
    "brunette": "brown",
    "lilac": "lavender",
    "scarlet": "red",
    "crimson": "red",
    "wine": "burgundy",
    "aqua": "cyan",
    "fuchsia": "magenta",
}
"""Spellings and near-synonyms -> the name used in the `colours` column."""

SHADES = frozenset({"dark", "light", "bright", "pale", "deep"})
"""Words that change a colour when they stand before it."""

PAIRS = {
    "lower body": "lower",
    "lower clothes": "lower",
    "lower clothing": "lower",
    "lower garment": "lower",
    "cross walk": "scene",
    "zebra crossing": "scene",
    "key chain": "accessory",
    "dress shirt": "upper",
    "dress shirts": "upper",
    "dress shoes": "footwear",
    "picture frame": "scene",
}
"""Two words -> group, where the word before changes it: "lower clothes"."""

HYPHENS = frozenset(["-", "–", "—", "/", "‐", "‑", "−", "_"])

TINTS = wordset(
    """navy olive wine mint charcoal khaki coral peach salmon mustard rust teal rose ivory turquoise
    lavender lilac burgundy maroon chestnut"""
)
TINTED = wordset("blue green red gray brown pink yellow white purple orange")
"""After one of `TINTS` these name no second colour: navy blue, olive green, wine red."""

CLOSING = wordset(
    """pants trousers trouser shorts slacks leggings tights stockings sweatpants shoes sneakers
    boots sandals slippers trainers loafers heels socks glasses sunglasses spectacles eyeglasses
    gloves backpack backpacks rucksack handbag handbags blouse skirt hat sneaker sandal
    headphones earphones schoolbag hands hair"""
)
"""Nouns that do not describe the noun after them: "white skirt yellow blouse sunglasses"."""
